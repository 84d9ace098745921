"""The exam: answers of a model to rows, and every metric of them with its interval.

Shapes: N rows, S statistics per row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.arrays import FloatArray
from orchestrator.errors import StageError
from orchestrator.tasks.base import Answer, AnyTask
from orchestrator.tasks.intervals import Comparison, Estimate, compare, estimate

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows


@dataclass(frozen=True, eq=False)
class Measured:
    """Metrics of a model on rows of a task.

    Attributes:
        task: Which task.
        metrics: Value and interval by metric name, the primary one first.
        statistics: Statistics per row by metric name, [N, S]; what a comparison needs.
    """

    task: AnyTask
    metrics: dict[str, Estimate]
    statistics: Mapping[str, FloatArray]

    @property
    def primary(self) -> Estimate:
        """The metric that decides."""
        return self.metrics[self.task.primary.name]


def measure(task: AnyTask, rows: "Rows", answers: Sequence[Answer]) -> Measured:
    """Compute all metrics of the answers to rows.

    Raises:
        StageError: There are more or fewer answers than rows, or none.
    """
    if len(answers) != len(rows) or not answers:
        raise StageError(f"{len(answers)} answers to {len(rows)} rows of task {task.head!r}")
    statistics = task.statistics(rows, answers)
    found = {metric.name: estimate(metric, statistics[metric.name]) for metric in task.metrics()}
    return Measured(task, found, statistics)


def compare_all(parent: Measured, child: Measured) -> dict[str, Comparison]:
    """Compare two models on the same rows, metric by metric.

    Raises:
        StageError: The tasks have different kinds or labels, or the rows are not the same.
    """
    if parent.task.kind() != child.task.kind() or parent.task.labels != child.task.labels:
        raise StageError(
            f"{parent.task.head!r} and {child.task.head!r} cannot be compared: they are of kind "
            f"{parent.task.kind()} with labels {list(parent.task.labels)} and of kind "
            f"{child.task.kind()} with labels {list(child.task.labels)}"
        )
    try:
        return {
            metric.name: compare(
                metric, parent.statistics[metric.name], child.statistics[metric.name]
            )
            for metric in parent.task.metrics()
        }
    except ValueError as error:
        raise StageError(f"task {parent.task.head!r} cannot be compared: {error}") from error
