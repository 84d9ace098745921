"""The accuracy-decay-aware allocator: prices of units, and the front of plans they predict.

Role of SAMP's allocator (Tian et al., EMNLP 2023 industry, arXiv 2209.09130): given an accuracy or
a latency requirement, or none, recommend a mix of precisions. Deliberate differences:

- the search space is a free choice of kind for every GEMM, not a number of leading layers;
- plans to measure come from a multiple-choice knapsack over measured per-unit errors (additive
  surrogate) and measured per-role time differences, plus SAMP's two pure modes as baselines;
- the decision is made on measurements of the deployed artifact only. The surrogate proposes, it
  never decides.

The price list (``options``) has the error that each unit adds and the time that each role saves.
Error: the product of one unit at a time is executed in INT8, on real texts, in the runtime that
would serve it, and gradients say what it does to the answers (``prices.sensitivity``).
Errors of small perturbations add up, so a plan's predicted error is the sum over its units; the
prediction is stored beside each measured point. Time: units of one role and shape cost the same, so
all units of a role are switched together, which divides the noise of the clock by their number, and
what noise is left is shrunk (``shrunk_times``).

Equations to functions: the knapsack (minimize the sum of errors for every sum of times) is
``surrogate_front``; the choice under a bound, and the knee without one, is ``ranking.ranked``.
Integer programming solvers return one plan per bound; the whole front is wanted here, and this
dynamic program gives it in one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.measured_results import Divergence
from orchestrator.quantization.plans import Plan, Unit, role_plan, single_plan
from orchestrator.quantization.results import Latency

SEPARATOR: Final = "@"
"""Between the unit or role and the kind in the names of prices."""
WHOLE: Final = "*"
"""In the names of prices: all roles together."""
LARGEST_INTERACTION: Final = 2.0
"""Largest factor between the time that all roles save together and one by one."""
GRID_CELLS: Final = 4096
"""Cells of the time axis of the knapsack: the front is exact up to one cell per unit."""
QUANTILE: Final = 1.959964
"""97.5 % quantile of the standard normal distribution."""


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
    fresh = [each for each in front if each.plan.digest not in known]
    times = np.asarray([each.time for each in fresh])
    wanted = np.linspace(times.min(), times.max(), count) if fresh else np.empty(0)
    indices = sorted({int(np.abs(times - time).argmin()) for time in wanted})
    for position, index in enumerate(indices):
        chosen[f"mixed.{position}"] = fresh[index].plan
    return chosen


def error_of(divergence: Divergence, goal: GoalConfig) -> float:
    """Return the distance that the search adds up over units."""
    error = divergence.cosine if goal.surrogate == "cosine" else divergence.error
    return max(error, 0.0)


def error_plans(units: Sequence[Unit], allowed: Sequence[KindName]) -> dict[str, Plan]:
    """Return the plans with one INT8 unit each, by ``<unit>@<kind>``."""
    return {
        f"{unit.name}{SEPARATOR}{kind}": single_plan(units, unit.name, kind)
        for unit in units
        for kind in unit.options(allowed)
    }


def latency_plans(units: Sequence[Unit], allowed: Sequence[KindName]) -> dict[str, Plan]:
    """Return the plans with one INT8 role each, by ``<role>@<kind>``, and with all: ``*@<kind>``.

    All of them make no plan of their own where a kind has one role.
    """
    plans = {
        f"{unit.role}{SEPARATOR}{kind}": role_plan(units, unit.role, kind)
        for unit in units
        for kind in unit.options(allowed)
    }
    for kind in allowed:
        whole = Plan({unit.name: kind if kind in unit.kinds else FLOAT for unit in units})
        if len({unit.role for unit in units if kind in unit.options(allowed)}) > 1:
            plans[f"{WHOLE}{SEPARATOR}{kind}"] = whole
    return plans


def shrunk_times(
    units: Sequence[Unit], allowed: Sequence[KindName], latencies: Mapping[str, Latency]
) -> dict[str, float]:
    """Return the time difference of one unit of each role in each kind, by ``<role>@<kind>``.

    A search that picks the best of many noisy times believes the luckiest ones: its predictions are
    too fast. Measured differences of roles are therefore shrunk towards what the number of weights
    lets expect, by the share of their variance that is noise (empirical Bayes: Efron and Morris
    1975): with slope c of the difference over the weights, residual r and standard error s of a
    role, c w + t / (t + s^2) r, where t is the variance of the residuals beyond the noise.

    Roles save more together than one by one, because weights of one byte leave room in the caches
    for each other. Each kind's differences are scaled so that they add up to that of all roles.
    """
    members: dict[str, list[Unit]] = {}
    for unit in units:
        members.setdefault(unit.role, []).append(unit)
    found: dict[str, float] = {}
    for kind in dict.fromkeys(kind for unit in units for kind in unit.options(allowed)):
        roles = [role for role in members if f"{role}{SEPARATOR}{kind}" in latencies]
        names = [f"{role}{SEPARATOR}{kind}" for role in roles]
        weights = np.asarray([sum(u.shape[0] * u.shape[1] for u in members[r]) for r in roles])
        saved = np.asarray([latencies[name].ratio - 1 for name in names])
        noise = np.asarray([np.ptp(latencies[name].range) for name in names]) / (2 * QUANTILE)
        expected = weights * float((saved * weights).sum() / (weights.astype(float) ** 2).sum())
        residual = saved - expected
        spread = max(float((residual**2).mean() - (noise**2).mean()), 0.0)
        with np.errstate(invalid="ignore"):
            trust = np.where(noise > 0, spread / (spread + noise**2), 1.0)
        times = expected + trust * residual
        times *= _interaction(float(times.sum()), latencies.get(f"{WHOLE}{SEPARATOR}{kind}"))
        for name, role, time in zip(names, roles, times, strict=True):
            found[name] = float(time) / len(members[role])
    return found


def _interaction(alone: float, together: Latency | None) -> float:
    """Return the time that all roles save together over the sum of what they save alone."""
    if together is None or alone >= 0:
        return 1.0
    factor = (together.ratio - 1) / alone
    return min(max(factor, 1 / LARGEST_INTERACTION), LARGEST_INTERACTION)


def options(
    units: Sequence[Unit],
    allowed: Sequence[KindName],
    errors: Mapping[str, Divergence],
    times: Mapping[str, float],
    goal: GoalConfig,
) -> dict[str, list[Option]]:
    """Price every kind of every unit.

    Args:
        units: The units of the model.
        allowed: INT8 kinds to choose from.
        errors: Measured divergence by name of ``error_plans``.
        times: Time difference of a unit, from ``shrunk_times``.
        goal: Says which distance counts.

    Returns:
        Options by unit. Times are in units of the float model's call: -0.01 saves one percent.
    """
    return {
        unit.name: [
            Option(
                kind,
                time=times[f"{unit.role}{SEPARATOR}{kind}"],
                error=error_of(errors[f"{unit.name}{SEPARATOR}{kind}"], goal),
            )
            for kind in unit.options(allowed)
        ]
        for unit in units
    }


def predicted(plan: Plan, options: Mapping[str, Sequence[Option]]) -> Predicted | None:
    """Return what the prices of a plan add up to; None if one of its units has none."""
    time = error = 0.0
    for unit, kind in plan.integer.items():
        option = next((each for each in options.get(unit, ()) if each.kind == kind), None)
        if option is None:
            return None
        time, error = time + option.time, error + option.error
    return Predicted(plan, time, error)


def saved_bytes(units: Sequence[Unit], plan: Plan) -> int:
    """Return how much smaller than float a plan's file is, but for its scales and names.

    One byte per weight in place of four; scale and zero point are 5 bytes per output.
    """
    return sum(
        3 * unit.shape[0] * unit.shape[1] - 5 * unit.shape[1]
        for unit in units
        if plan.kind(unit.name) != FLOAT
    )


def by_size(
    units: Sequence[Unit], options: Mapping[str, Sequence[Option]]
) -> dict[str, list[Option]]:
    """Return the options with what they save of the file, in MiB, in place of time."""
    return {
        unit.name: [
            Option(
                each.kind,
                -saved_bytes([unit], Plan({unit.name: each.kind})) / 2**20,
                each.error,
            )
            for each in options[unit.name]
        ]
        for unit in units
    }


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
