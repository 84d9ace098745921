"""Scales of imported scores: found from the values, or checked against what the user says."""

import re
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Literal, get_args

from orchestrator.errors import InputError
from orchestrator.selection.matrix.facts import SCALES, Scale
from orchestrator.selection.matrix.layouts import Reading
from orchestrator.selection.matrix.performance import TEST_STAGE
from orchestrator.selection.matrix.table import Table

ScaleOption = Literal["auto", "fraction", "percent", "range"]
SCALE_OPTIONS: tuple[ScaleOption, ...] = get_args(ScaleOption)
CLEARLY_PERCENT = 10.0
"""No fraction is that large; a loss may be, which is why `range` has to be said."""
MOST = {"fraction": 1.0, "percent": 100.0}
"""Largest score. Error rates go to twice that: a correlation of -1 is an error rate of 2."""
UNBOUNDED = frozenset({"loss", "perplexity", "ppl", "rmse", "mse", "mae"})
"""Words in names of metrics without bounds."""


def find_scales(
    table: Table,
    readings: Mapping[str, Sequence[Reading]],
    wanted: Mapping[str, ScaleOption],
    lower: Collection[str],
    metrics: Mapping[str, str],
) -> dict[str, Scale]:
    """Scale of every data set.

    Args:
        table: The file, for messages.
        readings: Data set to its numbers.
        wanted: Data set to the scale that the user says.
        lower: Data sets where lower is better.
        metrics: Data set to the name of its metric.

    Raises:
        InputError: A score does not fit its scale, or the scale cannot be told from the values.
    """
    scales: dict[str, Scale] = {}
    unclear: list[str] = []
    empty = [n for n, items in readings.items() if all(item.value is None for item in items)]
    for name, items in readings.items():
        if name in empty:
            continue
        scale = wanted[name]
        if scale != "auto":
            scales[name] = scale
            _require_fit(table, name, items, scale, name in lower)
        elif not _has_unbounded_name(name, metrics[name]) and (
            found := _clear_scale(items, name in lower)
        ):
            scales[name] = found
        else:
            unclear.append(name)
    found_scales = {scales[name] for name in scales if wanted[name] == "auto"}
    first = {scale: next(n for n in scales if scales[n] == scale) for scale in found_scales}
    if len(found_scales) > 1:
        whole, other = first["fraction"], first["percent"]
        raise _undecided(
            table, readings[whole], whole, f"looks like fractions and {other!r} like percent"
        )
    for name in unclear:
        if found_scales != {"percent"} or _has_unbounded_name(name, metrics[name]):
            raise _undecided(table, readings[name], name, "fits neither fractions nor percent")
        _require_fit(table, name, readings[name], "percent", name in lower)
        scales[name] = "percent"
    return {**dict.fromkeys(empty, min(found_scales, default="fraction")), **scales}


def bounds(items: Sequence[Reading], *, lower: bool) -> tuple[float, float]:
    """Worst and best score of a column without bounds, for scale ``range``.

    Test scores must not decide, not even the scale: validation scores count where there are any.
    """
    curve = [x.value for x in items if x.value is not None and x.stage != TEST_STAGE]
    values = curve or [x.value for x in items if x.value is not None] or [0.0]
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0
    return (high, low) if lower else (low, high)


def parse_scales(text: str, datasets: Sequence[str]) -> dict[str, ScaleOption]:
    """Parse ``--scale``: one scale for all, and ``NAME=SCALE`` for single data sets.

    Raises:
        InputError: An unknown scale or data set.
    """
    every: list[ScaleOption] = []
    single: dict[str, ScaleOption] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        name, _, scale = part.rpartition("=")
        known = next((item for item in SCALE_OPTIONS if item == scale.strip()), None)
        if known is None:
            raise InputError(
                f"--scale: {scale!r} is not a scale. Use auto, {', '.join(SCALES)}, or NAME=SCALE."
            )
        if name in single or (every and not name):
            raise InputError(f"--scale: {text!r} names two scales for the same; keep one.")
        if name and name not in datasets:
            raise InputError(
                f"--scale: {name!r} is not a data set of the table; it has {', '.join(datasets)}."
            )
        if name:
            single[name] = known
        else:
            every.append(known)
    default = every[0] if every else "auto"
    return {name: single.get(name, default) for name in datasets}


def _has_unbounded_name(*names: str) -> bool:
    return any(set(re.split(r"[^a-z]+", name.lower())) & UNBOUNDED for name in names)


def _clear_scale(items: Sequence[Reading], lower: bool) -> Scale | None:
    values = [item.value for item in items if item.value is not None]
    sizes = [abs(value) for value in values]
    if max(sizes) <= 1 or (lower and min(values) >= 0 and max(values) <= 2 and median(values) <= 1):
        return "fraction"
    if CLEARLY_PERCENT < max(values) <= MOST["percent"] * (2 if lower else 1):
        return "percent"
    return None


def _require_fit(
    table: Table, name: str, items: Sequence[Reading], scale: Scale, lower: bool
) -> None:
    if scale == "range":
        return
    most = MOST[scale]
    low, high = (0.0, 2 * most) if lower else (-most, most)
    for item in items:
        if item.value is not None and not low <= item.value <= high:
            raise table.refuse(
                item.line,
                item.column,
                f"{item.value:g} on {name!r} is not a {scale} "
                f"({low:g} to {high:g}{', lower is better' if lower else ''}). Say "
                f"--scale {name}=range for a score without bounds.",
            )


def _undecided(table: Table, items: Sequence[Reading], name: str, why: str) -> InputError:
    largest = max((i for i in items if i.value is not None), key=lambda item: abs(item.value or 0))
    return table.refuse(
        largest.line,
        largest.column,
        f"{largest.value:g}: the scale cannot be told, {name!r} {why}. Say --scale fraction, "
        f"--scale percent, or --scale {name}=fraction|percent|range.",
    )
