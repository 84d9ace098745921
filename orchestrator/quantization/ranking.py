"""Measured plans: what they miss of a goal, and the order in which they are deployed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from orchestrator.quantization.allocator import error_of
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.goals import Missed, NearMiss, missed_cost, missed_quality
from orchestrator.quantization.measured_results import PlanFigures
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import Latency

EQUAL_SPEED: Final = 0.03
"""Largest difference of two ratios that noise may explain."""
NEGLIGIBLE: Final = 0.002
"""Difference of two ratios that no user would notice, however well it is measured."""


@dataclass(frozen=True, slots=True)
class Point:
    """A plan and its measurements."""

    name: str
    plan: Plan
    figures: PlanFigures
    latency: Latency
    buckets: Mapping[str, Latency] = field(default_factory=dict)
    """Times at the other shapes of the goal."""
    length: int | None = None
    """Tokens at which texts are cut, where that is shorter than the job's limit."""

    @property
    def is_float(self) -> bool:
        """Whether this is the float model itself."""
        return not self.plan.integer and self.length is None


def misses(point: Point, goal: GoalConfig) -> list[Missed]:
    """Return the bounds that a measured plan does not keep on validation rows."""
    quality = [] if point.is_float else missed_quality(point.figures, goal, "validation")
    return quality + missed_cost(point.latency, point.buckets, point.figures.size, goal)


def near_misses(points: Sequence[Point], goal: GoalConfig) -> list[NearMiss]:
    """Return what each plan that may be deployed misses."""
    found = []
    for point in points:
        missed = misses(point, goal)
        if missed and (goal.allow_float or point.plan.integer):
            found.append(near_miss(point, missed))
    return found


def near_miss(point: Point, missed: Sequence[Missed]) -> NearMiss:
    """Return what a plan misses, with its name."""
    return NearMiss(
        plan=point.name,
        digest=point.plan.digest,
        integer_units=len(point.plan.integer),
        missed=tuple(missed),
    )


def ranked(points: Sequence[Point], goal: GoalConfig) -> list[Point]:
    """Return the measured points that reach the goal, in the order to deploy them."""
    allowed = [p for p in points if goal.allow_float or p.plan.integer]
    allowed = [point for point in allowed if not misses(point, goal)]
    if goal.bounds_quality:
        return _by_speed(allowed, goal)
    if goal.bounds_time or goal.max_bytes is not None:
        return sorted(
            allowed, key=lambda p: (error_of(p.figures.divergence, goal), p.latency.ratio)
        )
    return sorted(allowed, key=lambda point: -_knee_score(point, points, goal))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the Pareto front of measured time and output error, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency.ratio, p.figures.divergence.error)):
        if not front or point.figures.divergence.error < front[-1].figures.divergence.error:
            front.append(point)
    return front


def is_as_fast(point: Point, fastest: Point) -> bool:
    """Return whether a slower plan's time cannot be told from that of the fastest one.

    Their intervals overlap, or the difference is negligible; more than `EQUAL_SPEED` never is.
    """
    slower = point.latency.ratio - fastest.latency.ratio
    overlaps = point.latency.range[0] <= fastest.latency.range[1]
    return slower <= NEGLIGIBLE or (overlaps and slower <= EQUAL_SPEED)


def _by_speed(points: Sequence[Point], goal: GoalConfig) -> list[Point]:
    """Order plans by time; of plans that are as fast, the one with the smaller error first."""
    left, ordered = list(points), []
    while left:
        fastest = min(left, key=lambda point: point.latency.ratio)
        equal = [point for point in left if is_as_fast(point, fastest)]
        best = min(equal, key=lambda p: (error_of(p.figures.divergence, goal), p.latency.ratio))
        left.remove(best)
        ordered.append(best)
    return ordered


def _knee_score(point: Point, points: Sequence[Point], goal: GoalConfig) -> float:
    """Share of the possible saving minus share of the possible error (Kneedle's difference)."""
    slowest = max(p.latency.ratio for p in points)
    saving = slowest - min(p.latency.ratio for p in points)
    worst = max(error_of(p.figures.divergence, goal) for p in points)
    saved = (slowest - point.latency.ratio) / saving if saving else 0.0
    return saved - (error_of(point.figures.divergence, goal) / worst if worst else 0.0)
