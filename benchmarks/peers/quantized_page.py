"""The page of trained models in INT8, made of the figures of each case."""

from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Final

from orchestrator.quantization.backends.hosts import this_host
from peers.int8_engines import versions
from peers.planted_outliers import LAYERS
from peers.quantized_figures import FLOOR, Figures, Measured
from peers.quantized_studies import OUTLIERS
from peers.quantized_tasks import TASKS

WORST_DROP: Final = 0.02
"""Reference point of the hypervolume: this drop, at the time of float."""
COLLAPSE: Final = 0.05
"""Smallest drop that the page calls a collapse."""
COLUMNS: Final = ("model", "metric", "float", "rows", "plan", "INT8 units", "time", "drop",
                  "best pure mode", "time", "test drop", "test rows")  # fmt: skip
HEAD: Final = """# INT8 plans on trained models

Made by `python benchmarks/quantization_tasks.py --work FOLDER --write`; what is compared and how
is in its first lines. {host}, one thread, on a machine with other load.
{versions}.

Time is the ratio of CPU time to the float graph of the same engine in the same rounds, all plans of
a task in one run; smaller is faster. Drop: loss of the metric in points on validation rows, of the
file that is timed. The bound of all jobs: its one-sided 95 % bound is at most {floor:.0f} point.
"""


def hypervolume(points: Sequence[tuple[float, float]], worst: float = WORST_DROP) -> float:
    """Return the share of the box [0, 1] x [0, worst] that time and drop of some point dominate.

    A gain counts as a drop of 0.
    """
    left, area, limit = sorted((t, max(d, 0.0)) for t, d in points), 0.0, worst
    for time, drop in left:
        if time < 1 and drop < limit:
            area += (1 - time) * (limit - drop)
            limit = drop
    return area / worst


def page(found: Mapping[str, Figures]) -> str:
    """Return the page of the cases that were measured."""
    host = this_host()
    lines = [
        HEAD.format(
            host=f"{host.cpu} ({host.architecture}; {', '.join(host.isa)})",
            versions=", ".join(f"{n} {v}" for n, v in versions().items()),
            floor=100 * FLOOR,
        )
    ]
    tasks = {case: each for case, each in found.items() if not case.endswith(OUTLIERS)}
    others = {case: each for case, each in found.items() if case.endswith(OUTLIERS)}
    lines += _tasks(tasks) + _planted(others)
    lines += _volumes({case: each for case, each in tasks.items() if "samp" in each.jobs})
    for case, each in tasks.items():
        lines += _sweep(case, each) if "samp" in each.jobs else []
    return "\n".join(lines).rstrip() + "\n"


def _tasks(found: Mapping[str, Figures]) -> list[str]:
    rows, faster, slower = [], 0, 0
    for case, each in found.items():
        ours, pure = each.deployed(), each.best_pure
        low, high = (1.0, 1.0) if each.duel is None else each.duel.range
        gain = 1.0 if each.duel is None else each.duel.ratio
        faster += high < 1
        slower += low > 1 or (each.duel is None and ours.plan != pure.plan)
        rows.append([*_row(case, each), f"{gain:.3f} ({low:.3f}–{high:.3f})"])
    lines = ["## Mixed plans and pure modes", "", *_table([*COLUMNS, "over best pure"], rows)]
    count = len(found)
    return [
        *lines,
        f"- tasks: {count}; goal ≥ 4: {_verdict(count >= 4)}",
        f"- tasks with a deployed plan as fast as the best pure mode within the bound: "
        f"{count - slower}; goal ≥ {max(count, 4)}: {_verdict(count >= 4 and not slower)}",
        f"- tasks with a deployed plan that is faster, by the interval of the ratio: {faster}; "
        f"goal ≥ 2: {_verdict(faster >= 2)}",
        f"- tasks whose test rows, asked once, confirm the deployed plan: "
        f"{sum(each.jobs['front'].confirmed for each in found.values())}; goal ≥ {max(count, 4)}: "
        f"{_verdict(count >= 4 and all(f.jobs['front'].confirmed for f in found.values()))}",
        "",
    ]


def _row(case: str, figures: Figures) -> list[str]:
    ours, pure, job = figures.deployed(), figures.best_pure, figures.jobs["front"]
    paired = None if job.test is None else job.test.paired
    confirmed = "confirm" if job.confirmed else "**do not confirm**"
    units = sum(kind != "fp32" for kind in ours.plan.values())
    title = TASKS[case].title if case in TASKS else case
    return [
        title,
        figures.metric,
        f"{figures.reference:.3f}",
        f"{figures.rows['validation']:,}",
        ours.name,
        f"{units} of {len(ours.plan)}",
        _time(ours),
        _points(ours.drop),
        pure.name,
        _time(pure),
        "" if paired is None else _points(paired.drop),
        confirmed,
    ]


def _planted(found: Mapping[str, Figures]) -> list[str]:
    if not found:
        return []
    lines = [
        "## Planted outlier channels",
        "",
        "Scaled by 400, and the weights that read them divided by it: three channels between the "
        "values and the output projection of layers 0, 2 and 5 (names), three channels of the norm "
        "before attention in layers 0 and 2 (digits). Equalized norms, which all plans of the job "
        "share, undo the second kind.",
        "",
    ]
    lines += _table(COLUMNS, [_row(case, each) for case, each in found.items()])
    for case, each in found.items():
        full = [p for p in each.plans if p.name.startswith("fully_quant")]
        name, drop = min((each.bare or {"": 0.0}).items(), key=lambda item: item[1])
        ours, difference = each.deployed(), each.difference or 0.0
        bound = None if ours.figures.paired is None else ours.figures.paired.bound
        lines += [
            f"- {case}: largest difference of float logits, relative to the largest: "
            f"{difference:.1e}; goal ≤ 1e-5: {_verdict(float(f'{difference:.1e}') <= 1e-5)}",
            f"- {case}: smallest drop of a fully quantized plan ({name}), norms not equalized, in "
            f"points: {100 * drop:.1f}; goal ≥ {100 * COLLAPSE:.0f}: "
            f"{_verdict(round(100 * drop, 1) >= 100 * COLLAPSE)}",
            f"- {case}: fully quantized plans of the job that keep the bound: "
            f"{sum(p.keeps for p in full)} of {len(full)}",
            f"- {case}: bound of the deployed plan's drop, in points: {100 * (bound or 0):.2f}; "
            f"goal ≤ {100 * FLOOR:.0f}: {_verdict(ours.keeps)}",
        ]
    optimum = found.get(f"names{OUTLIERS}")
    if optimum is not None:
        lines += _optimum(optimum)
    return [*lines, ""]


def _optimum(figures: Figures) -> list[str]:
    """Hold the deployed plan of the planted MiniLM against the optimum that is known of it."""
    ours, pure = figures.deployed(), figures.best_pure
    floats = {unit for unit, kind in ours.plan.items() if kind == "fp32"}
    wanted = {f"encoder.layers.{layer}.attention.output" for layer in LAYERS["post"]}
    others, whole = len(floats ^ wanted), len(ours.plan) - len(floats)
    ratio = round(ours.latency.ratio / pure.latency.ratio, 3)
    return [
        f"- {figures.case}: units in float that are not planted, or planted ones that are not: "
        f"{others}; goal ≤ 0: {_verdict(not others)}",
        f"- {figures.case}: INT8 units of {len(ours.plan)}: {whole}; goal ≥ 20: "
        f"{_verdict(whole >= 20)}",
        f"- {figures.case}: time over that of the best pure mode, {pure.name}: {ratio:.3f}; "
        f"goal ≤ 0.85: {_verdict(ratio <= 0.85)}",
    ]


def _volumes(found: Mapping[str, Figures]) -> list[str]:
    lines = [
        "## Hypervolume of the fronts",
        "",
        f"Share of the box between time 0 and 1 and drop 0 and {100 * WORST_DROP:.0f} points that "
        "some measured plan of a method dominates: its reference point is float's time with a drop "
        f"of {100 * WORST_DROP:.0f} points; a gain counts as a drop of 0. NNCF's accuracy control, "
        "where it is measured, runs with a largest drop of 0.2, 0.5, 1 and 2 points; in our engine "
        "its plans have the same units in INT8, with calibrated ranges. In OpenVINO our plans have "
        "their units in NNCF's INT8. `evaluations`: INT8 plans whose accuracy was measured.",
        "",
    ]
    rows: list[list[str]] = []
    ratios: dict[tuple[str, str], list[float]] = {}
    for case, each in found.items():
        for engine, plans in {"ours": each.plans, **each.engines}.items():
            volume = {
                method: hypervolume(
                    [(p.latency.ratio, p.drop) for p in plans if p.method == method]
                )
                for method in dict.fromkeys(plan.method for plan in plans)
            }
            ours = volume["front"]
            for other in ("samp", "nncf"):
                if volume.get(other):
                    ratios.setdefault((engine, other), []).append(ours / volume[other])
            shown = [f"{volume[m]:.3f}" if m in volume else "" for m in ("front", "samp", "nncf")]
            counts = [str(job.evaluations) for job in each.jobs.values()]
            counts.append(str(sum(each.nncf_evaluations.values())) if each.nncf_evaluations else "")
            used = ", ".join(counts) if engine == "ours" else ""
            rows.append([case, engine, *shown, f"{each.float_ms.get(engine, 0):.2f}", used])
    lines += _table(
        ["case", "engine", "ours", "SAMP's sweep", "NNCF", "float ms", "evaluations of each"], rows
    )
    controlled = sum(bool(each.engines) for each in found.values())
    if not controlled:
        lines.append("- cases with NNCF's accuracy control beside ours: 0; goal ≥ 1: **missed**")
    goals = {"samp": ("SAMP's sweep", 1.0), "nncf": ("NNCF accuracy control", 1.05)}
    for (engine, other), values in ratios.items():
        title, limit = goals[other]
        mean = geometric_mean(values)
        lines.append(
            f"- hypervolume over {title}, {engine}, geometric mean over {len(values)} cases: "
            f"{mean:.3f} ({min(values):.3f} to {max(values):.3f}); goal ≥ {limit}: "
            f"{_verdict(round(mean, 3) >= limit)}"
        )
    return [*lines, ""]


def _sweep(case: str, figures: Figures) -> list[str]:
    """SAMP's table: modes by number of quantized layers, each with accuracy and speed-up."""
    points = {p.name: p for p in figures.plans if p.method == "samp" and p.name.startswith("samp.")}
    layers = max(int(name.rpartition(".")[2]) for name in points)
    head = ["quantized layers", "Fully-Quant", "speed-up", "Quant-FFN-Only", "speed-up"]
    rows = [["0 (float)", f"{figures.reference:.4f}", "1.00", f"{figures.reference:.4f}", "1.00"]]
    for count in range(1, layers + 1):
        cells = [str(count)]
        for mode in ("fully", "ffn"):
            point = next((p for n, p in points.items() if n.endswith(f".{mode}.{count}")), None)
            paired = None if point is None else point.figures.paired
            if point is None or paired is None:
                cells += ["", ""]
            else:
                cells += [f"{paired.accuracy:.4f}", f"{1 / point.latency.ratio:.2f}"]
        rows.append(cells)
    ours, samp = figures.deployed(), figures.deployed("samp")
    kinds = {kind for plan in points.values() for kind in plan.plan.values()} - {"fp32"}
    return [
        f"## SAMP's sweep: {case}",
        "",
        f"The first k layers in INT8 ({', '.join(sorted(kinds))}), {figures.metric} on validation "
        "rows.",
        "",
        *_table(head, rows),
        f"Within the bound the sweep takes {samp.name} (time {_time(samp)}, drop "
        f"{_points(samp.drop)}), the default method {ours.name} (time {_time(ours)}, drop "
        f"{_points(ours.drop)}).",
        "",
    ]


def _time(plan: Measured) -> str:
    low, high = plan.latency.range
    return f"{plan.latency.ratio:.3f} ({low:.3f}–{high:.3f})"


def _points(drop: float) -> str:
    return f"{100 * drop:+.2f}"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]
