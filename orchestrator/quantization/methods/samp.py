"""SAMP's sweep (Tian et al., EMNLP 2023 industry, arXiv 2209.09130): how many layers run in INT8.

For each of its two modes, Fully-Quant and Quant-FFN-Only, the first k layers are in INT8, for every
k. The paper's own code is not public; the order of layers and the rule below follow its text:
without a bound, the number of layers is the largest before the accuracy lost per saved time,
``rate(k) = (A(k-1) - A(k)) / (T(k-1) - T(k))``, exceeds the average rate of the whole sweep.

Deviations: every INT8 kind of the job is swept; the paper knows one. Every plan is measured as it
would be deployed, where the paper measures speed apart from accuracy.
"""

import re
from collections.abc import Sequence
from typing import Final

from orchestrator.quantization.allocator import error_of
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.methods.space import Measure, Space
from orchestrator.quantization.plans import Plan, Unit, ffn_only, fully_quant
from orchestrator.quantization.ranking import Point

MODES: Final = {"fully": fully_quant, "ffn": ffn_only}
PREFIX: Final = "samp."


def search(space: Space, measure: Measure) -> None:
    """Measure the first k layers in each mode and kind, for every k."""
    measure({"float": space.baselines["float"], **sweeps(space.units, space.kinds)})


def sweeps(units: Sequence[Unit], kinds: Sequence[KindName]) -> dict[str, Plan]:
    """Return the sweep of each kind; equal sweeps once, where units have no other kind."""
    found: dict[str, Plan] = {}
    known: set[str] = set()
    for kind in kinds:
        plans = sweep(units, kind)
        fresh = {name: plan for name, plan in plans.items() if plan.digest not in known}
        found |= fresh
        known |= {plan.digest for plan in fresh.values()}
    return found


def sweep(units: Sequence[Unit], kind: KindName) -> dict[str, Plan]:
    """Return the plans with the first k layers in INT8, by ``samp.<kind>.<mode>.<k>``."""
    layers = list(dict.fromkeys(layer_of(unit) for unit in units))
    plans: dict[str, Plan] = {}
    for mode, make in MODES.items():
        whole = make(units, kind)
        for number in range(1, len(layers) + 1):
            first = set(layers[:number])
            chosen: dict[str, KindName] = {
                unit.name: whole.kind(unit.name) if layer_of(unit) in first else FLOAT
                for unit in units
            }
            plan = Plan(chosen)
            if plan.integer:
                plans[f"{PREFIX}{kind}.{mode}.{number}"] = plan
    return plans


def layer_of(unit: Unit) -> str:
    """Return the layer of a unit: its name up to the first number."""
    found = re.match(r".*?\.\d+(?=\.|$)", unit.name)
    return unit.name if found is None else found[0]


def recommended(points: Sequence[Point], goal: GoalConfig) -> list[Point]:
    """Return the plans that the rule recommends, one of each sweep, the fastest first."""
    floats = [point for point in points if point.is_float]
    found: dict[str, list[Point]] = {}
    for point in points:
        if point.name.startswith(PREFIX) and point.length is None:
            found.setdefault(point.name.rpartition(".")[0], []).append(point)
    best = [_before_the_rate_rises([floats[0], *sweep_], goal) for sweep_ in found.values()]
    return sorted((p for p in best if p.plan.integer), key=lambda point: point.latency.ratio)


def _before_the_rate_rises(sweep_: Sequence[Point], goal: GoalConfig) -> Point:
    """Return the last point before the loss per saved time exceeds that of the whole sweep."""
    losses = [_loss(point, goal) for point in sweep_]
    times = [point.latency.ratio for point in sweep_]
    average = _rate(losses[-1] - losses[0], times[0] - times[-1])
    best = 0
    for k in range(1, len(sweep_)):
        if _rate(losses[k] - losses[k - 1], times[k - 1] - times[k]) > average:
            break
        best = k
    return sweep_[max(best, 1)]


def _rate(lost: float, saved: float) -> float:
    """Return the loss per saved time; without a saving, infinite where anything is lost."""
    if saved > 0:
        return lost / saved
    return float("inf") if lost > 0 else 0.0


def _loss(point: Point, goal: GoalConfig) -> float:
    """Return the drop of the primary metric, or the distance from float without labels."""
    paired = point.figures.paired
    return error_of(point.figures.divergence, goal) if paired is None else paired.drop
