"""Scores of every head after every stage, as the suites of the packages state them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.config import StrictModel
from orchestrator.zoo.gate import is_within
from orchestrator.zoo.suite import Suite, read_suite

if TYPE_CHECKING:
    from orchestrator.zoo import Package


class HeadScore(StrictModel):
    """Primary metric of one head of one package on the test rows of its task."""

    stage: str
    """Stage that made the package."""
    package: str
    """Reference of the package."""
    head: str
    """Name of the head."""
    metric: str
    """Name of the metric."""
    value: float
    """The metric."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""
    rows: int
    """Test rows."""
    drop: float | None = None
    """Fall against the parent on the same rows; null: the parent does not answer this head."""
    bound: float | None = None
    """One-sided 95 % upper bound of the fall."""


class HeadChange(StrictModel):
    """A head when it was learned and in the last package."""

    head: str
    """Name of the head."""
    learned: float
    """Score in the first package that has it."""
    served: float
    """Score in the last one."""

    @property
    def drop(self) -> float:
        """Fall of the score since the head was learned."""
        return self.learned - self.served


def suite_scores(stage: str, package: "Package") -> Iterator[HeadScore]:
    """Yield what the suite of a package says of each head that was measured.

    Args:
        stage: Stage that made it.
        package: The committed package.
    """
    suite = read_suite(package) or Suite()
    for head, exam in suite.exams.items():
        if exam.status != "measured":
            continue
        figure, change = exam.metrics[exam.primary], exam.differences.get(exam.primary)
        yield HeadScore(
            stage=stage,
            package=package.ref,
            head=head,
            metric=exam.primary,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            rows=exam.rows,
            drop=None if change is None else change.drop,
            bound=None if change is None else change.bound,
        )


def changes(scores: tuple[HeadScore, ...]) -> tuple[HeadChange, ...]:
    """Return the first and the last score of each head, in the order in which they were learned."""
    found: dict[str, list[float]] = {}
    for score in scores:
        found.setdefault(score.head, []).append(score.value)
    return tuple(
        HeadChange(head=head, learned=values[0], served=values[-1])
        for head, values in found.items()
    )


def verdict(change: HeadChange, bound: float) -> str:
    """Return in words whether a head was kept."""
    kept = is_within(change.drop, bound, change.learned)
    ending = f"kept within {bound:g}" if kept else f"not kept: it fell by more than {bound:g}"
    return f"{change.head}: {change.learned:.3f} when learned, {change.served:.3f} served; {ending}"
