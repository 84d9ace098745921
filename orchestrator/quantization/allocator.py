"""The accuracy-decay-aware allocator: proposes plans to measure, and ranks the measured plans.

Role of SAMP's allocator (Tian et al., EMNLP 2023 industry, arXiv 2209.09130): given an accuracy or
a latency requirement, or none, recommend a mix of precisions. Deliberate differences:

- the search space is a free choice of kind for every GEMM, not a number of leading layers;
- plans to measure come from a multiple-choice knapsack over measured per-unit errors (additive
  surrogate) and measured per-role time differences, plus SAMP's two pure modes as baselines;
- the decision is made on measurements of the deployed artifact only. The surrogate proposes, it
  never decides.

The price list (``options``) has the error that each unit adds and the time that each role saves.
Error: one unit at a time is executed in INT8, on real texts, in the runtime that would serve it.
Errors of small perturbations add up, so a plan's predicted error is the sum over its units; the
prediction is stored beside each measured point. Time: units of one role and shape cost the same, so
all units of a role are switched together, which divides the noise of the clock by their number.

Equations to functions: the knapsack (minimize the sum of errors for every sum of times) is
``surrogate_front``; the choice under a bound, and the knee without one, is ``ranked``. Integer
programming solvers return one plan per bound; the whole front is wanted here, and this dynamic
program gives it in one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.plans import Plan, Unit, role_plan, single_plan
from orchestrator.quantization.results import Divergence, Latency, Paired
from orchestrator.zoo.gate import is_within

SEPARATOR: Final = "@"
"""Between the unit or role and the kind in the names of prices."""
GRID_CELLS: Final = 4096
"""Cells of the time axis of the knapsack: the front is exact up to one cell per unit."""
EQUAL_SPEED: Final = 0.02
"""Width of a class of equal speed, as a ratio; within a class the smaller error wins."""


@dataclass(frozen=True, slots=True)
class Option:
    """One kind for one unit: time difference to float (negative is faster) and error it adds."""

    kind: KindName
    time: float
    error: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """A plan with the surrogate's time difference to float and error."""

    plan: Plan
    time: float
    error: float


@dataclass(frozen=True, slots=True)
class Point:
    """A plan and its measurements."""

    name: str
    plan: Plan
    paired: Paired
    divergence: Divergence
    latency: Latency
    length: int | None = None
    """Tokens at which texts are cut, where that is shorter than the job's limit."""


def surrogate_front(
    units: Sequence[Unit], options: Mapping[str, Sequence[Option]]
) -> list[Predicted]:
    """Return the Pareto front of predicted time and error, fastest first.

    Multiple-choice knapsack by dynamic programming over units, on the Pareto set of partial sums.
    Of the sums within one of ``GRID_CELLS`` time cells only the one with the smallest error stays:
    that bounds the work and costs at most one cell of time per unit.

    Args:
        units: The units of the model; those without an entry in ``options`` stay in float.
        options: INT8 options of each unit; float (0, 0) is always added.
    """
    span = sum(
        max((abs(option.time) for option in choices), default=0.0) for choices in options.values()
    )
    cell = max(span / GRID_CELLS, np.finfo(float).tiny)
    partial: list[tuple[float, float, tuple[KindName, ...]]] = [(0.0, 0.0, ())]
    for unit in units:
        choices = (Option(FLOAT, 0.0, 0.0), *options.get(unit.name, ()))
        sums = [
            (time + choice.time, error + choice.error, (*kinds, choice.kind))
            for time, error, kinds in partial
            for choice in choices
        ]
        partial = _undominated(sums, cell)
    names = [unit.name for unit in units]
    return [Predicted(Plan(dict(zip(names, kinds, strict=True))), t, e) for t, e, kinds in partial]


def candidates(
    front: Sequence[Predicted], baselines: Mapping[str, Plan], count: int
) -> dict[str, Plan]:
    """Pick plans to measure: all baselines, and up to ``count`` of the front, evenly over time.

    Plans are unique; a baseline on the front keeps the baseline's name.
    """
    chosen = dict(baselines)
    known = {plan.digest for plan in baselines.values()}
    fresh = [predicted for predicted in front if predicted.plan.digest not in known]
    times = np.asarray([predicted.time for predicted in fresh])
    wanted = np.linspace(times.min(), times.max(), count) if fresh else np.empty(0)
    indices = sorted({int(np.abs(times - time).argmin()) for time in wanted})
    for position, index in enumerate(indices):
        chosen[f"mixed.{position}"] = fresh[index].plan
    return chosen


def ranked(points: Sequence[Point], goal: GoalConfig) -> list[Point]:
    """Return the measured points that reach the goal, in the order to deploy them."""
    allowed = [point for point in points if _reaches(point, goal)]
    if goal.max_accuracy_drop is not None:
        return sorted(allowed, key=_by_speed)
    if goal.max_latency_ms is not None:
        return sorted(allowed, key=lambda p: (p.paired.drop, p.divergence.kl, p.latency.ratio))
    return sorted(allowed, key=lambda point: -_knee_score(point, points))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the Pareto front of measured time and output error, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency.ratio, p.divergence.kl)):
        if not front or point.divergence.kl < front[-1].divergence.kl:
            front.append(point)
    return front


def error_plans(units: Sequence[Unit], allowed: Sequence[KindName]) -> dict[str, Plan]:
    """Return the plans with one INT8 unit each, by ``<unit>@<kind>``."""
    return {
        f"{unit.name}{SEPARATOR}{kind}": single_plan(units, unit.name, kind)
        for unit in units
        for kind in unit.options(allowed)
    }


def latency_plans(units: Sequence[Unit], allowed: Sequence[KindName]) -> dict[str, Plan]:
    """Return the plans with one INT8 role each, by ``<role>@<kind>``."""
    return {
        f"{unit.role}{SEPARATOR}{kind}": role_plan(units, unit.role, kind)
        for unit in units
        for kind in unit.options(allowed)
    }


def options(
    units: Sequence[Unit],
    allowed: Sequence[KindName],
    errors: Mapping[str, Divergence],
    latencies: Mapping[str, Latency],
) -> dict[str, list[Option]]:
    """Price every kind of every unit.

    Args:
        units: The units of the model.
        allowed: INT8 kinds to choose from.
        errors: Measured divergence by name of ``error_plans``.
        latencies: Measured time, against float, by name of ``latency_plans``.

    Returns:
        Options by unit. Times are in units of the float model's call: -0.01 saves one percent.
    """
    members = {role: sum(unit.role == role for unit in units) for role in {u.role for u in units}}
    return {
        unit.name: [
            Option(
                kind,
                time=(latencies[f"{unit.role}{SEPARATOR}{kind}"].ratio - 1) / members[unit.role],
                error=max(errors[f"{unit.name}{SEPARATOR}{kind}"].kl, 0.0),
            )
            for kind in unit.options(allowed)
        ]
        for unit in units
    }


def predicted_error(plan: Plan, errors: Mapping[str, Divergence]) -> float | None:
    """Return the sum of the single-unit errors of a plan; None if one of them was not measured."""
    names = [f"{unit}{SEPARATOR}{kind}" for unit, kind in plan.integer.items()]
    if any(name not in errors for name in names):
        return None
    return float(sum(errors[name].kl for name in names))


def _reaches(point: Point, goal: GoalConfig) -> bool:
    paired, limit = point.paired, goal.max_accuracy_drop
    accurate = limit is None or is_within(paired.drop, limit, paired.reference)
    fast = goal.max_latency_ms is None or point.latency.cpu_ms <= goal.max_latency_ms
    return accurate and fast and (goal.allow_float or bool(point.plan.integer))


def _by_speed(point: Point) -> tuple[int, float, float]:
    return round(point.latency.ratio / EQUAL_SPEED), point.divergence.kl, point.latency.ratio


def _knee_score(point: Point, points: Sequence[Point]) -> float:
    """Share of the possible saving minus share of the possible error (Kneedle's difference)."""
    slowest = max(p.latency.ratio for p in points)
    saving = slowest - min(p.latency.ratio for p in points)
    worst = max(p.divergence.kl for p in points)
    saved = (slowest - point.latency.ratio) / saving if saving else 0.0
    return saved - (point.divergence.kl / worst if worst else 0.0)


def _undominated(
    sums: Sequence[tuple[float, float, tuple[KindName, ...]]], cell: float
) -> list[tuple[float, float, tuple[KindName, ...]]]:
    best: dict[int, tuple[float, float, tuple[KindName, ...]]] = {}
    for entry in sums:
        index = int(np.floor(entry[0] / cell))
        if index not in best or (entry[1], entry[0]) < (best[index][1], best[index][0]):
            best[index] = entry
    front: list[tuple[float, float, tuple[KindName, ...]]] = []
    for entry in sorted(best.values(), key=lambda e: (e[0], e[1])):
        if not front or entry[1] < front[-1][1]:
            front.append(entry)
    return front
