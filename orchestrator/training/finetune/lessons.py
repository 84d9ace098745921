"""Lessons: labelled tasks that one model learns in one run, and which of them a step learns.

Step t learns one lesson. Which one depends on the seed, the weights and t alone, so it is the same
on every rank and after a restart; within a lesson the samples are those of ``StepSource``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.config import did_you_mean
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.steps import StepSource
from orchestrator.errors import InputError
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig
from orchestrator.tasks.base import AnyTask, HeadOptions, task_class
from orchestrator.training.engines.engine import Batch
from orchestrator.training.finetune.heads import head_name
from orchestrator.training.finetune.lesson_options import ClassWeights

if TYPE_CHECKING:
    from orchestrator.training.distillation.teacher import Teacher


@dataclass(frozen=True, eq=False)
class Lesson:
    """One task to learn.

    Attributes:
        task: What is asked; its head is trained.
        data: Rows to learn from and to be measured on; labels in the order of the task's.
        weight: How often it is learned, relative to its number of training rows.
        class_weights: Weights of the classes in the loss.
        teacher: Adds its answers to the samples that are trained on.
    """

    task: AnyTask
    data: TaskData
    weight: float = 1.0
    class_weights: ClassWeights = "none"
    teacher: "Teacher | None" = None

    @property
    def head(self) -> str:
        """Name of the head."""
        return self.task.head

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return the config of the head that is trained.

        Raises:
            InputError: Class weights are given for a task without classes, or for unknown classes.
        """
        target = self.task.target(options)
        if self.class_weights == "none":
            return target
        if not isinstance(target, ClsConfig):
            raise InputError(
                f"class_weights: task {self.head!r} is of kind {self.task.kind()} with a head "
                f"{target.type_name()}, which has no classes to weigh. Leave class_weights out; "
                "only classification without a template has them."
            )
        weights = class_weights(self.class_weights, self.task.labels, self.data.train)
        return target.model_copy(update={"class_weights": weights})


def class_weights(
    wanted: Mapping[str, float] | str, labels: Sequence[str], train: Rows
) -> tuple[float, ...]:
    """Return a weight for each class whose mean over the training rows is 1.

    The loss is divided by the number of rows of a step over all ranks, so a mean of 1 keeps its
    scale, and ranks need not exchange anything but counts.

    Args:
        wanted: ``balanced``, N / (K n) of a class with n of N rows as in scikit-learn, or weights
            by name; classes without one have 1.
        labels: Names of the classes.
        train: The training rows.

    Raises:
        InputError: A name is not a class, or a weight is not positive.
    """
    counts = np.bincount(train.labels, minlength=len(labels)).astype(np.float64)
    if isinstance(wanted, str):
        return tuple((counts.sum() / (len(labels) * np.maximum(counts, 1))).tolist())
    for name, weight in wanted.items():
        if name not in labels:
            raise InputError(
                f"class_weights: {name!r} is not a class. {did_you_mean(name, labels, 'Classes')}"
            )
        if not weight > 0:
            raise InputError(f"class_weights.{name}: {weight:g} is not above 0.")
    given = np.asarray([wanted.get(name, 1.0) for name in labels])
    return tuple((given * counts.sum() / (counts * given).sum()).tolist())


def lesson_of(data: TaskData, kind: str = "classification", head: str | None = None) -> Lesson:
    """Return the lesson of a data set; its head has the data set's name unless given."""
    found = task_class(kind)
    name = head_name(data.name if head is None else head)
    return Lesson(found(found.Config(), data.label_names, name), data)


class LessonSource:
    """Windows of micro-batches by global step, each of one lesson.

    Args:
        sources: Samples of each lesson.
        weights: How often each is learned, relative to its number of steps per epoch.
        max_steps: Length of the run.
        seed: Decides the order.
    """

    def __init__(
        self, sources: Sequence[StepSource], weights: Sequence[float], max_steps: int, seed: int
    ) -> None:
        self._sources = sources
        self._per_epoch = sum(source.steps_per_epoch for source in sources)
        steps = [source.steps_per_epoch for source in sources]
        shares = np.asarray(weights) * steps
        borders = np.cumsum(shares / shares.sum())[:-1]
        draws = np.random.default_rng(seed).random(max_steps)
        self.lessons = np.searchsorted(borders, draws, side="right")
        """Lesson of each step, [max_steps]; a longer run begins with the same ones."""
        self._turns = np.zeros(max_steps, dtype=np.int64)
        for lesson in range(len(sources)):
            mine = self.lessons == lesson
            self._turns[mine] = np.arange(mine.sum())

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Return the micro-batches of one rank for a step."""
        source = self._sources[int(self.lessons[step])]
        return source.window(int(self._turns[step]), rank, world)

    def epoch(self, step: int) -> float:
        """Return the epochs of the run before a step."""
        return step / self._per_epoch
