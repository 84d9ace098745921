"""The task of a data set: its kind, the metric that decides, and that metric's direction and scale.

Scores are stored in the unit of the metric. Decisions compare `TargetTask.goodness`, where larger
is better: the score itself for a share or a correlation, 1 minus it for an error rate. An error
without bounds (the mean absolute error of regression) becomes the share of the error of the best
constant answer that is gone: 1 is perfect, 0 is as good as no model.
"""

import logging
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.errors import InputError, IntegrityError
from orchestrator.selection.matrix.facts import DatasetFacts, Scale
from orchestrator.tasks.base import (
    AnyTask,
    Task,
    TaskConfig,
    build_task,
    task_class,
    task_for,
    tasks,
)
from orchestrator.zoo.suite import TaskSpec

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.data.spec import DatasetSpec

logger = logging.getLogger(__name__)
USUAL = "classification"
"""Kind that is taken where whole numbers may be classes or measurements."""
UNBOUNDED = frozenset({"mae"})
"""Metrics in the unit of the labels."""


class TargetTask(StrictModel):
    """The task that candidates are trained for, and how its score is read."""

    spec: TaskSpec
    """Kind, head, labels and options."""
    metric: str
    """Name of the metric that decides."""
    higher_is_better: bool = True
    """Its direction."""
    scale: Scale = "fraction"
    """``fraction``, or ``range`` for a metric in the unit of the labels."""
    worst: float = 0.0
    """Scale ``range``: score of the best constant answer on training rows."""

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return self.spec.kind

    @property
    def plain(self) -> bool:
        """Whether decisions compare the score as it is."""
        return self.higher_is_better and self.scale == "fraction"

    @property
    def adapts(self) -> bool:
        """Whether something (a threshold) is chosen on validation rows."""
        return task_class(self.kind).adapted is not Task.adapted

    @property
    def facts(self) -> DatasetFacts:
        """Metric, direction and scale as a matrix stores them."""
        return DatasetFacts(
            metric=self.metric,
            higher_is_better=self.higher_is_better,
            scale=self.scale,
            worst=self.worst,
            best=0.0 if self.scale == "range" else 1.0,
        )

    def goodness(self, score: float) -> float:
        """Return a score on the scale of decisions: larger is better, 1 is perfect."""
        if self.plain:
            return score
        return float(self.facts.normalized(np.asarray(score, dtype=np.float64)))

    def score_of(self, goodness: float) -> float:
        """Return the score, in the unit of the metric, that has some goodness."""
        if self.plain:
            return goodness
        return (1.0 - goodness) * (self.worst if self.scale == "range" else 1.0)

    def width_of(self, width: float) -> float:
        """Return a difference of goodness as a difference of scores."""
        return width * (self.worst if self.scale == "range" else 1.0)

    def answering(self, data: "TaskData | None" = None) -> AnyTask:
        """Return the task.

        Args:
            data: Its rows, to be checked.

        Raises:
            IntegrityError: The rows have other labels than those of the plan.
        """
        task = build_task(self.spec)
        task.decides = self.metric
        if data is not None and task.has_labels and data.label_names != task.labels:
            raise IntegrityError(
                f"{data.name} has the labels {list(data.label_names)} now, and had "
                f"{list(task.labels)} when the run began. Start a run with another name."
            )
        return task


def label_form(kind: str) -> LabelForm:
    """Return how labels of a task kind are read."""
    return task_class(kind).form()


def kind_of(spec: "DatasetSpec", task: TaskConfig | None) -> str:
    """Return the kind of the task of a data set: the given one, or the one its rows show.

    Raises:
        InputError: Candidates cannot be compared by tasks of this kind, or the rows are unclear.
    """
    from orchestrator.tasks.detection import detect_kind

    if task is not None:
        return require_selectable(task.type_name())
    found = detect_kind(spec, usual=USUAL)
    if found.several:
        logger.warning("%s: taken as %s, %s", spec.source, found.kind, found.reason)
    return require_selectable(found.kind, spec.source)


def refusal(kind: str) -> str | None:
    """Return why candidates cannot be compared by tasks of a kind; None: they can."""
    if not task_class(kind).writes_text:
        return None
    allowed = ", ".join(name for name in tasks.names() if not task_class(name).writes_text)
    return (
        f"tasks of kind {kind} cannot be selected for: each package writes texts with a head of "
        f"its own, so the trials would not train the same. Use finetune, or one of {allowed}."
    )


def require_selectable(kind: str, source: str = "task") -> str:
    """Return the kind.

    Raises:
        InputError: Candidates cannot be compared by tasks of this kind.
    """
    if (reason := refusal(kind)) is not None:
        raise InputError(f"{source}: {reason}")
    return kind


def target_task(
    data: "TaskData", kind: str, task: TaskConfig | None = None, metric: str | None = None
) -> TargetTask:
    """Return the task of a data set.

    Args:
        data: Its rows.
        kind: From `kind_of`.
        task: Options of the kind; None: those that the rows ask for.
        metric: The metric that decides; None: the kind's first one.

    Raises:
        InputError: The kind does not read such rows, or has no such metric.
    """
    from orchestrator.training.finetune.heads import head_name

    options = {} if task is None else task.model_dump(exclude={"type"}, exclude_unset=True)
    asked = task_for(kind, data, head_name(data.name), **options)
    found = {each.name: each for each in asked.metrics()}
    if metric is not None and metric not in found:
        raise InputError(
            f"metric: {metric!r} is not a metric of {kind} on {data.name}. "
            f"{did_you_mean(metric, list(found), 'Metrics')}"
        )
    chosen = found[metric or asked.primary.name]
    bounds = {"scale": "range", "worst": constant_error(data)} if chosen.name in UNBOUNDED else {}
    return TargetTask.model_validate(
        {
            "spec": asked.spec,
            "metric": chosen.name,
            "higher_is_better": chosen.higher_is_better,
            **bounds,
        }
    )


def constant_error(data: "TaskData") -> float:
    """Return the mean absolute error of answering training rows with their median; never 0."""
    labels = np.asarray(data.train.labels, dtype=np.float64)
    return float(np.abs(labels - np.median(labels, axis=0)).mean()) or 1.0


def majority_accuracy(data: "TaskData", task: TargetTask) -> float | None:
    """Return the test accuracy of always answering the largest class; None without classes."""
    return data.majority_accuracy if label_form(task.kind) is FORMS["class"] else None
