"""Goals: what measured figures are held to, and what they miss.

A bound of quality is held by the one-sided 95 % bound of the paired difference to the float model
on validation rows (non-inferiority), unless the goal says ``mean``. On test rows the figure itself
must be within the bound: they confirm one decision, and choose nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.errors import InputError, StageError
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.measured_results import PlanFigures
from orchestrator.quantization.results import Latency
from orchestrator.tasks.measure import split_name
from orchestrator.zoo.gate import is_within

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows as LabelledRows
    from orchestrator.tasks.base import AnyTask

Rows = Literal["validation", "test"]


class Missed(StrictModel):
    """A bound that measured figures do not keep."""

    limit: str
    """Name of the bound, as in the goal."""
    value: float
    """Value that was held against it: the one-sided bound on validation rows, else the figure."""
    allowed: float
    """Largest value that is allowed; the smallest one of a ``min_`` bound."""
    rows: Rows | None = None
    """Rows of the figure; null: a time or a size."""

    @property
    def excess(self) -> float:
        """Distance from the bound, relative to what it allows to be lost."""
        if self.limit.startswith("min_"):
            return (self.allowed - self.value) / (1 - self.allowed)
        return (self.value - self.allowed) / (self.allowed or 1.0)

    def in_words(self) -> str:
        """One phrase for messages."""
        where = f" on {self.rows} rows" if self.rows else ""
        return f"{self.limit} is {self.value:.4g}{where}, {self.allowed:g} is allowed"


class NearMiss(StrictModel):
    """The plan that came nearest to a goal."""

    plan: str
    """Name of the plan."""
    digest: str
    """Short hash of its INT8 units and their kinds."""
    integer_units: int
    """Number of its INT8 units."""
    missed: tuple[Missed, ...]
    """Bounds that it does not keep."""

    @property
    def excess(self) -> float:
        """Sum of the distances from the bounds."""
        return sum(miss.excess for miss in self.missed)


class NoPlanError(StageError):
    """No plan keeps the goal.

    Attributes:
        nearest: The plan that came nearest; None: every plan is excluded by name.
        result: The same as JSON values, for the result line of the job.
    """

    def __init__(self, message: str, nearest: NearMiss | None) -> None:
        super().__init__(message)
        self.nearest = nearest
        found = None if nearest is None else nearest.model_dump(mode="json")
        self.result: dict[str, JsonValue] = {"nearest_miss": found}


@dataclass(frozen=True, slots=True)
class Criterion:
    """One bound of quality with what was measured.

    Attributes:
        limit: Name of the bound.
        value: The figure.
        worst: Its one-sided 95 % bound on the bad side.
        best: Its bound on the good side.
        allowed: The bound of the goal.
        reference: Value of the float model, which sets the size of rounding errors.
    """

    limit: str
    value: float
    worst: float
    best: float
    allowed: float
    reference: float = 1.0

    def keeps(self, value: float, *, exact: bool) -> bool:
        """Return whether a value is within the bound; roundings are forgiven unless ``exact``."""
        if self.limit.startswith("min_"):
            return is_within(1 - value, 1 - self.allowed, self.reference)
        if exact:
            return isfinite(value) and value <= self.allowed
        return is_within(value, self.allowed, self.reference)

    @property
    def hopeless(self) -> bool:
        """Whether the interval excludes the bound: more rows would not help."""
        return not self.keeps(self.best, exact=False)


def criteria(figures: PlanFigures, goal: GoalConfig) -> Iterator[Criterion]:
    """Yield the bounds of quality of a goal with the figures of a plan; none may be unknown."""
    drops = {} if goal.max_accuracy_drop is None else {"max_accuracy_drop": goal.max_accuracy_drop}
    drops |= {f"gates.{name}": drop for name, drop in goal.gates.items()}
    for limit, allowed in drops.items():
        found = figures.paired
        if limit.startswith("gates."):
            found = figures.gates[limit.removeprefix("gates.")]
        assert found is not None
        worst = found.interval[1] if found.bound is None else found.bound
        yield Criterion(limit, found.drop, worst, found.interval[0], allowed, found.reference)
    near = figures.closeness
    if goal.min_cosine is not None:
        assert near is not None
        low, high = near.cosine.low, near.cosine.high
        yield Criterion("min_cosine", near.cosine.value, low, high, goal.min_cosine)
    if goal.min_agreement is not None:
        assert near is not None
        assert near.agreement is not None
        low, high = near.agreement.low, near.agreement.high
        yield Criterion("min_agreement", near.agreement.value, low, high, goal.min_agreement)
    if goal.max_kl is not None:
        assert near is not None
        assert near.kl is not None
        yield Criterion("max_kl", near.kl.value, near.kl.high, near.kl.low, goal.max_kl)


def is_hopeless(figures: PlanFigures, goal: GoalConfig) -> bool:
    """Return whether a plan that was measured on some rows can be given up."""
    return any(criterion.hopeless for criterion in criteria(figures, goal))


def missed_quality(figures: PlanFigures, goal: GoalConfig, rows: Rows) -> list[Missed]:
    """Return the bounds of quality that figures do not keep.

    Args:
        figures: Of a plan on these rows.
        goal: The bounds.
        rows: Validation rows are held by ``goal.statistic``, test rows by the figure itself.
    """
    bounded = rows == "validation" and goal.statistic == "bound"
    found = []
    for criterion in criteria(figures, goal):
        value = criterion.worst if bounded else criterion.value
        if not criterion.keeps(value, exact=bounded):
            found.append(
                Missed(limit=criterion.limit, value=value, allowed=criterion.allowed, rows=rows)
            )
    return found


def missed_cost(
    latency: Latency, buckets: Mapping[str, Latency], size: int | None, goal: GoalConfig
) -> list[Missed]:
    """Return the bounds of time and size that a plan does not keep."""
    asked: list[tuple[str, float, float]] = []
    if goal.max_latency_ms is not None:
        asked.append(("max_latency_ms", latency.cpu_ms, goal.max_latency_ms))
    asked += [
        (f"buckets.{bucket.name}", buckets[bucket.name].cpu_ms, bucket.max_ms)
        for bucket in goal.buckets
    ]
    if goal.max_bytes is not None:
        assert size is not None
        asked.append(("max_bytes", float(size), goal.max_bytes))
    return [
        Missed(limit=limit, value=value, allowed=allowed)
        for limit, value, allowed in asked
        if value > allowed
    ]


def nearest_of(found: Sequence[NearMiss]) -> NearMiss | None:
    """Return the nearest miss; None of none."""
    return min(found, key=lambda miss: miss.excess, default=None)


def check_goal(goal: GoalConfig, task: "AnyTask | None", ref: str) -> None:
    """Refuse bounds that have no meaning for the task of a package.

    Args:
        goal: The bounds.
        task: What the package answers; None: with embeddings only.
        ref: The package, for messages.

    Raises:
        InputError: The package has no task, its answers are never equal, or a metric is unknown.
    """
    answers = {"min_agreement": goal.min_agreement, "max_kl": goal.max_kl}
    if task is None:
        asked = [name for name, bound in answers.items() if bound is not None]
        if goal.needs_labels or asked:
            raise InputError(
                f"goal: {ref} answers no labelled task; its accuracy cannot be bounded. "
                "Give goal.min_cosine, which bounds its embeddings on unlabelled texts, or "
                "fine-tune it first"
            )
        return
    if goal.min_agreement is not None and task.kind() in ("regression", "similarity"):
        raise InputError(
            f"goal.min_agreement: target {task.head!r} answers with numbers, which are never "
            "equal. Give goal.min_cosine or goal.max_kl"
        )
    metrics = task.metrics()
    for name in goal.gates:
        if split_name(name, metrics)[0] is None:
            hint = did_you_mean(name, [metric.name for metric in metrics], "Metrics")
            raise InputError(f"goal.gates.{name}: {task.head!r} has no such metric. {hint}")


def check_slices(goal: GoalConfig, task: "AnyTask", splits: "Mapping[str, LabelledRows]") -> None:
    """Require that each slice that a gate watches has rows to choose and to confirm by.

    Args:
        goal: The bounds.
        task: The task of the rows.
        splits: The rows that are measured, by split.

    Raises:
        InputError: One has none.
    """
    for gate in goal.gates:
        _, wanted = split_name(gate, task.metrics())
        for split, rows in splits.items():
            if wanted is None or wanted in (rows.slices or ()):
                continue
            if rows.slices is None:
                hint = "The rows have no slices: name their column with data.slice_column"
            else:
                hint = did_you_mean(wanted, sorted(set(rows.slices)), "Slices")
            raise InputError(f"goal.gates.{gate}: no {split} row is of slice {wanted!r}. {hint}")
