"""The quantization of a package: measured plans, precision of every layer, sensitivity, classes."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from orchestrator.quantization.results import (
    PARETO_FILE,
    REPORT_FILE,
    ParetoReport,
    QuantizationReport,
)
from orchestrator.report import figures
from orchestrator.report.page import Picture, Section, Table
from orchestrator.zoo import Package
from orchestrator.zoo.suite import OF_SLICE, read_suite

LOSSES: Final = ("float", "INT8", "95 % bound of the drop")
PER_CLASS: Final = re.compile(r"^(precision|recall|f1)\.(.+)$")
LAYER: Final = re.compile(r"^(.*?)\.?(\d+)\.(.+)$")
"""Name of a unit: before the number of its layer, the number, and its part of the layer."""
FEW_DECADES: Final = 30.0
"""Largest over smallest value below which whole powers of ten are too few ticks."""


def quantization_section(package: Package) -> Section:
    """Return the measured plans, and what the deployed one does to layers and classes."""
    more: list[Picture | Table] = []
    if package.has(REPORT_FILE):
        report = package.read_model(REPORT_FILE, QuantizationReport)
        more = [precision_map(report), *class_tables(package, report.target)]
    return plans_section(package.read_model(PARETO_FILE, ParetoReport), more)


def plans_section(pareto: ParetoReport, more: Sequence[Picture | Table] = ()) -> Section:
    """Return the measured plans: quality against latency.

    Args:
        pareto: The plans.
        more: Shown below them.
    """
    points = sorted(pareto.points, key=lambda point: point.latency_ms)
    chosen = [index for index, point in enumerate(points) if point.chosen]
    size, length = pareto.latency_shape
    name = figures.quality_name(points)
    plans = Table(
        ("plan", "INT8 GEMMs", name, "ms"),
        tuple((p.name, p.integer_units, figures.quality(p), p.latency_ms) for p in points),
        highlight=chosen[0] if chosen else None,
    )
    return Section(
        "Quantization",
        f"Every point is a measured ONNX session: {name} on {pareto.split} rows, time of "
        f"{size} x {length} tokens, one thread. The front weighs divergence from the float model "
        "and time. A plan named with a number of tokens cuts texts there.",
        (figures.pareto_front(pareto.points), plans, *more),
    )


def precision_map(report: QuantizationReport) -> Picture:
    """Draw the kind of every unit by layer, and the error that each unit adds alone.

    Bars are those of the deployed kind; of units in float, of their worst kind: what was avoided.
    """
    units = report.plan.units
    rows = list(dict.fromkeys(_place(unit)[0] for unit in units))
    columns = list(dict.fromkeys(_place(unit)[1] for unit in units))
    kinds = sorted(set(units.values()))
    errors = {unit: _sensitivity(report, unit, kind) for unit, kind in units.items()}

    def draw(axes: Any) -> None:
        grid, bars = axes
        for index, kind in enumerate(kinds):
            places = [_place(unit) for unit, each in units.items() if each == kind]
            grid.scatter(
                [columns.index(part) for _, part in places],
                [rows.index(layer) for layer, _ in places],
                marker="s", s=70, color="#cccccc" if kind == "fp32" else figures.PALETTE[index],
                label=kind,
            )  # fmt: skip
        grid.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=7)
        grid.set_yticks(range(len(rows)), rows, fontsize=7)
        grid.invert_yaxis()
        grid.margins(0.15)
        grid.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        shown = [unit for unit in units if errors[unit] > 0]
        colors = ["#cccccc" if units[u] == "fp32" else figures.PALETTE[0] for u in shown]
        bars.barh(range(len(shown)), [errors[unit] for unit in shown], color=colors)
        bars.set_yticks(range(len(shown)), shown, fontsize=5)
        bars.invert_yaxis()
        _log_axis(bars, [errors[unit] for unit in shown])
        bars.set_xlabel("divergence that the unit adds alone", fontsize=8)

    height = max(2.4, 0.12 * len(units) + 0.8)
    return figures.render_svg(draw, width=7.2, height=height, ncols=2)


def _log_axis(axes: Any, values: Sequence[float]) -> None:
    """Scale the x axis of positive values by logarithm, with plain numbers at its ticks.

    Matplotlib's own labels are formulas, which an SVG with real text shows as their source.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    near = max(values, default=1.0) < FEW_DECADES * min(values, default=1.0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,), numticks=6))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=7)


def _sensitivity(report: QuantizationReport, unit: str, kind: str) -> float:
    """Return the error of a unit alone in its kind; of a float unit, the largest of its kinds."""
    found = {
        name.rpartition("@")[2]: error.error
        for name, error in report.sensitivity.items()
        if name.rpartition("@")[0] == unit
    }
    return max(found.values(), default=0.0) if kind == "fp32" else found.get(kind, 0.0)


def _place(unit: str) -> tuple[str, str]:
    """Return layer and part of a unit."""
    found = LAYER.match(unit)
    return ("", unit) if found is None else (f"{found[1]} {found[2]}", found[3])


def class_tables(package: Package, target: str | None) -> Iterator[Table]:
    """Yield what each class and each slice lost on test rows, as the suite measured it."""
    suite = read_suite(package)
    exam = None if suite is None or target is None else suite.exams.get(target)
    if exam is None:
        return
    rows: Sequence[tuple[str, str, float, float, float]] = [
        (named[2], named[1], found.parent, found.parent - found.drop, found.bound)
        for name, found in exam.differences.items()
        if (named := PER_CLASS.match(name)) is not None
    ]
    if rows:
        yield Table(("class", "metric", *LOSSES), tuple(sorted(rows)))
    prefix = f"{exam.primary}{OF_SLICE}"
    slices: Sequence[tuple[str, float, float, float]] = [
        (name.removeprefix(prefix), found.parent, found.parent - found.drop, found.bound)
        for name, found in exam.differences.items()
        if name.startswith(prefix)
    ]
    if slices:
        yield Table(("slice", *LOSSES), tuple(sorted(slices)))
