"""The exam: answers of a model to rows, and every metric of them with its interval.

A metric of a slice of the rows is called ``<metric>@<slice>``. An exam has the primary metric of
each slice; others are computed where a gate asks for them.

Shapes: N rows, S statistics per row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.errors import StageError
from orchestrator.tasks.base import Answer, AnyTask
from orchestrator.tasks.intervals import Comparison, Estimate, compare, estimate
from orchestrator.zoo.suite import OF_SLICE

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows
    from orchestrator.tasks.metrics import Metric


@dataclass(frozen=True, eq=False)
class Measured:
    """Metrics of a model on rows of a task.

    Attributes:
        task: Which task.
        metrics: Value and interval by metric name, the primary one first.
        statistics: Statistics per row by metric name, [N, S]; what a comparison needs. Those of a
            slice are of its rows.
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
    statistics = dict(task.statistics(rows, answers))
    found = {metric.name: estimate(metric, statistics[metric.name]) for metric in task.metrics()}
    for part in dict.fromkeys(rows.slices or ()):
        name = f"{task.primary.name}{OF_SLICE}{part}"
        statistics[name] = of_slice(statistics[task.primary.name], rows, part)
        found[name] = estimate(task.primary, statistics[name])
    return Measured(task, found, statistics)


def of_slice(statistics: FloatArray, rows: "Rows", name: str) -> FloatArray:
    """Return the statistics [M, S] of the rows of a slice, of those of all rows [N, S]."""
    return np.asarray(statistics[np.asarray(rows.slices or [], dtype=object) == name])


def split_name(name: str, metrics: "Sequence[Metric]") -> "tuple[Metric | None, str | None]":
    """Return the metric and the slice of a name; None for an unknown metric.

    Args:
        name: ``recall.spam``, or ``recall.spam@german``; names of classes may have an @ as well.
        metrics: Those of the task.
    """
    known = {metric.name: metric for metric in metrics}
    if name in known:
        return known[name], None
    longest = max((m for m in known if name.startswith(f"{m}{OF_SLICE}")), key=len, default=None)
    if longest is None:
        return None, None
    return known[longest], name[len(longest) + len(OF_SLICE) :]


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
        metrics = parent.task.metrics()
        named = {name: split_name(name, metrics)[0] for name in parent.metrics}
        return {
            name: compare(metric, parent.statistics[name], child.statistics[name])
            for name, metric in named.items()
            if metric is not None
        }
    except ValueError as error:
        raise StageError(f"task {parent.task.head!r} cannot be compared: {error}") from error
