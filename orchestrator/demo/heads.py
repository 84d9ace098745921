"""Scores of every head after every stage, each measured on the committed package."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.config import StrictModel

if TYPE_CHECKING:
    from orchestrator.data.spec import DatasetSpec
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


def measure_heads(
    stage: str, package: "Package", data: "Mapping[str, DatasetSpec]"
) -> Iterator[HeadScore]:
    """Answer the test rows of every head of a package.

    Args:
        stage: Stage that made it.
        package: The committed package.
        data: Data set of each head; heads without one are left out.
    """
    from orchestrator.data.sources.opening import load_task
    from orchestrator.inference.predictor import Predictor
    from orchestrator.tasks.intervals import estimate

    predictor = Predictor.open(package)
    for head, task in predictor.tasks.items():
        if head not in data:
            continue
        rows = load_task(data[head]).test
        statistics = task.statistics(rows, predictor.answers(rows, head))
        found = estimate(task.primary, statistics[task.primary.name])
        yield HeadScore(
            stage=stage,
            package=package.ref,
            head=head,
            metric=task.primary.name,
            value=found.value,
            low=found.low,
            high=found.high,
            rows=len(rows),
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
    kept = change.drop <= bound
    ending = f"kept within {bound:g}" if kept else f"not kept: it fell by more than {bound:g}"
    return f"{change.head}: {change.learned:.3f} when learned, {change.served:.3f} served; {ending}"
