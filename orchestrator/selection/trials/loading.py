"""Packages, rows and paused trainings that one process keeps for its next trials.

The caches live as long as the process: it runs many forward passes and trials on the same data, and
a reference with a version never changes.
"""

import functools
from collections import OrderedDict
from typing import TYPE_CHECKING

from orchestrator.data.spec import DatasetSpec
from orchestrator.selection.target_tasks import TargetTask, label_form
from orchestrator.zoo import Package, Zoo

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.training.finetune.finetuner import FineTuner
    from orchestrator.training.finetune.lessons import Lesson

HELD_WEIGHTS = 20_000_000
"""Weights of paused trainings that a process keeps, at most; with their optimizer 16 bytes each."""
_held: "OrderedDict[str, FineTuner]" = OrderedDict()


@functools.lru_cache(maxsize=8)
def package_of(zoo: str, reference: str) -> Package:
    """Return a package by its zoo and its reference with a version."""
    return Zoo(zoo).get(reference)


def task_of(spec: DatasetSpec, kind: str = "classification") -> "TaskData":
    """Return the rows of a task of a kind."""
    return _task(spec.model_dump_json(), kind)


@functools.lru_cache(maxsize=4)
def _task(spec: str, kind: str) -> "TaskData":
    from orchestrator.data.sources.opening import load_task

    return load_task(DatasetSpec.model_validate_json(spec), form=label_form(kind))


def lesson_for(spec: DatasetSpec, asked: TargetTask | None) -> "Lesson":
    """Return the rows of a task, and what is asked about them; None: classification by accuracy."""
    from orchestrator.training.finetune.lessons import Lesson, lesson_of

    if asked is None:
        return lesson_of(task_of(spec))
    data = task_of(spec, asked.kind)
    return Lesson(asked.answering(data), data)


def hold(state: str, tuner: "FineTuner") -> None:
    """Keep a paused training on the CPU: resumed here, it need not be built and loaded again.

    Args:
        state: Folder of its committed state.
        tuner: The training, as it stands in that folder.
    """
    if next(tuner.model.parameters()).device.type != "cpu":
        return  # a GPU's memory is the next trial's
    _held[state] = tuner
    while sum(_weights(each) for each in _held.values()) > HELD_WEIGHTS:
        _held.popitem(last=False)


def held(state: str) -> "FineTuner | None":
    """Return a paused training that is kept here, and keep it no longer."""
    return _held.pop(state, None)


def _weights(tuner: "FineTuner") -> int:
    return sum(weight.numel() for weight in tuner.model.parameters())
