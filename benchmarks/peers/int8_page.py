"""The page of INT8 encoders: tables, and a verdict for each goal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from orchestrator.quantization.backends.hosts import Host
from peers.int8_engines import DYNAMIC, EAGER, FUSED, TRYAII, versions

if TYPE_CHECKING:
    from quantization import Rows

Shape = tuple[int, int]
Found = Mapping[str, tuple["Rows", Mapping[str, float], list[str]]]
SPEED: Final = {
    "MiniLM": {(1, 32): 4.5, (1, 128): 2.3, (8, 128): 1.9},
    "BERT-base shape": {(1, 32): 3.0, (1, 128): 2.1, (8, 128): 1.55},
}
"""Times as fast as eager PyTorch."""
LOAD: Final = {"MiniLM": 0.3, "BERT-base shape": 1.5}
"""Seconds until the first answer."""
COSINE: Final = (0.995, 0.99)
"""Mean and smallest cosine of the plan with every unit in INT8."""


def page(found: Found, host: Host) -> str:
    """Return the page.

    Args:
        found: Figures, seconds until the first answer, and missing engines, by model.
        host: The machine.
    """
    lines = [
        "# INT8 encoders",
        "",
        "Made by `python benchmarks/quantization.py --write`; what is compared and how is in its",
        f"first lines. {host.cpu} ({host.architecture}; {', '.join(host.isa)}), one thread, on a",
        "machine with other load. " + ", ".join(f"{n} {v}" for n, v in versions().items()) + ".",
        "Figures are times as fast as eager PyTorch in the same round, by CPU time; larger is",
        "faster. Error: 1 - cosine, in 1e-4, mean over the sentences.",
        "",
    ]
    for name, (rows, loads, missing) in found.items():
        lines += [f"## {name}", "", *_table(rows), ""]
        if missing:
            lines += [f"Not installed: {', '.join(missing)}.", ""]
        lines += _verdicts(name, rows, loads)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: "Rows") -> list[str]:
    shapes = list(rows[EAGER].ratio)
    head = [f"({batch}, {length})" for batch, length in shapes]
    lines = [
        f"| engine | {' | '.join(head)} | ms at {head[0]} | error | smallest cosine | MB |",
        f"| {' | '.join(['---'] * (len(shapes) + 5))} |",
    ]
    for name, row in rows.items():
        cells = [f"{row.ratio[shape]:.2f}" for shape in shapes]
        cells.append(f"{row.ms[shapes[0]]:.2f}")
        mean, least = row.cosine or (None, None)
        cells.append("" if mean is None else f"{1e4 * (1 - mean):.1f}")
        cells.append("" if least is None else f"{least:.4f}")
        cells.append("" if row.megabytes is None else f"{row.megabytes:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _verdicts(model: str, rows: "Rows", loads: Mapping[str, float]) -> list[str]:
    fast = _fastest(rows)
    lines = []
    for shape, least in SPEED[model].items():
        if shape in rows[EAGER].ratio:
            lines += _speeds(rows, shape, fast, least)
    mine, theirs = rows[fast].cosine, rows[DYNAMIC].cosine
    if mine and theirs:
        lines.append(_at_least(f"{fast}, mean cosine", mine[0], COSINE[0], "", 4))
        lines.append(_at_least(f"{fast}, smallest cosine", mine[1], COSINE[1], "", 4))
        more = 1e4 * (mine[0] - theirs[0])
        lines.append(_at_least(f"{fast}, cosine above quantize_dynamic", more, 0, "e-4", 1))
    if TRYAII in rows and mine and (other := rows[TRYAII].cosine):
        shape = next(iter(rows[EAGER].ratio))
        more = rows[fast].ratio[shape] / rows[TRYAII].ratio[shape]
        lines.append(_at_least(f"{fast}, as fast as tryaii at {shape}", more, 1, " times", 2))
        closer = 1e4 * (mine[0] - other[0])
        lines.append(_at_least(f"{fast}, cosine above tryaii", closer, 0, "e-4", 1))
    lines += [
        f"- {name}, CPU s from the first import to the first answer: {seconds:.2f}; "
        f"goal ≤ {LOAD[model]}: {_verdict(round(seconds, 2) <= LOAD[model])}"
        for name, seconds in loads.items()
    ]
    return lines


def _fastest(rows: "Rows") -> str:
    """Return our fastest equalized plan in which an answer is independent of batch mates."""
    ours = [name for name in rows if name.startswith("ours") and "equalized" in name]
    return max(ours, key=lambda name: sum(rows[name].ratio.values()))


def _speeds(rows: "Rows", shape: Shape, fast: str, least: float) -> list[str]:
    own = rows[fast].ratio[shape]
    whole = rows["ours fp32"].ratio[shape] / rows[FUSED].ratio[shape]
    dynamic = own / rows[DYNAMIC].ratio[shape]
    return [
        _at_least(f"{shape} {fast} over eager PyTorch", own, least, "", 2),
        _at_least(f"{shape} {fast} over quantize_dynamic", dynamic, 1, "", 2),
        _at_least(f"{shape} ours fp32 over fused fp32", whole, 1, "", 2),
    ]


def _at_least(what: str, found: float, least: float, unit: str, digits: int) -> str:
    value = f"{found:.{digits}f}"
    reached = float(value) >= least
    return f"- {what}: {value}{unit}; goal ≥ {least:g}: {_verdict(reached)}"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"
