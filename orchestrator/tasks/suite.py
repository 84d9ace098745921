"""The exam: every task of a suite, measured on the model that is about to be committed.

A task is asked on the rows that its suite was made with: those of the job's data where their
fingerprint is the same, else the rows that the parent keeps, else those that its data set still
gives. Where none of them are there, the task is ``unverified`` and says why. The parent answers the
same rows, so that the gate holds a paired difference.

Shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.rows.splitting import cap_indices
from orchestrator.data.rows.storage import fingerprint, read_rows, write_rows
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import OrchestratorError
from orchestrator.tasks.base import Answer, AnyTask, build_task
from orchestrator.tasks.intervals import Comparison
from orchestrator.tasks.measure import Measured, compare_all, measure
from orchestrator.zoo.suite import (
    EXEMPLARS_FOLDER,
    ROWS_FOLDER,
    DataRecord,
    Difference,
    Exam,
    Figure,
    Suite,
    SuiteConfig,
    TaskSpec,
)

SPLITS = ("train", "validation", "test")
SEED = 11
"""Seed of the choice of rows to keep; fixed, so that the same rows are kept in every stage."""


class Answering(Protocol):
    """Source of answers to rows: an ``inference.Predictor``."""

    tasks: dict[str, AnyTask]

    def answers(self, rows: Rows, head: str) -> Sequence[Answer]:
        """Answer rows with a head."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """A task that a job has data for.

    Attributes:
        task: The task, with the options and label names of its head.
        data: Its rows.
        spec: The data set as the job names it.
    """

    task: AnyTask
    data: TaskData
    spec: DatasetSpec | None = None

    @classmethod
    def of_classes(cls, head: str, data: TaskData, spec: DatasetSpec | None = None) -> "Learned":
        """Return the task of a head that learns the classes of a data set."""
        task = TaskSpec(kind="classification", head=head, labels=data.label_names)
        return cls(build_task(task), data, spec)

    @property
    def record(self) -> DataRecord:
        """Origin of the rows, with the fingerprint of each split."""
        splits = {name: self.data.split(name) for name in SPLITS}
        return DataRecord(
            spec={} if self.spec is None else self.spec.model_dump(mode="json"),
            fingerprints={name: fingerprint(rows) for name, rows in splits.items() if len(rows)},
            rows={name: len(rows) for name, rows in splits.items()},
        )


@dataclass(frozen=True, slots=True)
class Parent:
    """The package whose promises are examined again.

    Attributes:
        ref: Its reference.
        folder: Its verified folder.
        suite: What it promised.
        model: The loaded package.
    """

    ref: str
    folder: Path
    suite: Suite
    model: Answering


@dataclass(frozen=True, slots=True)
class _Questions:
    """The rows of an exam, or why there are none."""

    rows: Rows | None
    data: DataRecord
    reason: str = ""


def examine(
    child: Answering,
    folder: Path,
    *,
    parent: Parent | None = None,
    learned: Mapping[str, Learned] | None = None,
    default: str | None = None,
    config: SuiteConfig | None = None,
) -> Suite:
    """Measure all tasks, keep their rows in the folder, and return the suite.

    Args:
        child: The model of the folder.
        folder: Draft of the package; the kept rows and exemplars are written into it.
        parent: Whose tasks are examined too; None: a new suite.
        learned: Data of the job by head.
        default: Head that the package is made for.
        config: How many rows are kept.
    """
    learned, config = learned or {}, config or SuiteConfig()
    promised = {} if parent is None else parent.suite.exams
    exams: dict[str, Exam] = {}
    for head in dict.fromkeys([*promised, *learned]):
        if head not in child.tasks:
            continue  # the gate names what the parent answered and this package does not
        task, own = child.tasks[head], learned.get(head)
        questions = _questions(head, task, parent, own)
        exam = _exam(task, questions, child, parent)
        if questions.rows is not None and config.keep_rows:
            name = f"{ROWS_FOLDER}/{head}.parquet"
            write_rows(folder / name, _sample(questions.rows, config.keep_rows))
            exam = exam.model_copy(update={"rows_file": name})
        _keep_exemplars(head, task, folder, parent, own, config.exemplars)
        exams[head] = exam
    return Suite(default=default, exams=exams)


def _questions(head: str, task: AnyTask, parent: Parent | None, own: Learned | None) -> _Questions:
    """Return the rows of the exam of a task."""
    promise = None if parent is None else parent.suite.exams.get(head)
    if own is not None and own.data.label_names != task.labels and task.has_labels:
        reason = f"the data have the labels {list(own.data.label_names)}, the head answers "
        return _Questions(None, own.record, f"{reason}{list(task.labels)}")
    if promise is None or parent is None:
        assert own is not None
        return _Questions(own.data.test, own.record)
    if promise.task.labels and promise.task.labels != task.labels:
        reason = f"the head answers {list(task.labels)}, that of {parent.ref} "
        return _Questions(None, promise.data, f"{reason}{list(promise.task.labels)}")
    known = promise.data.fingerprints.get("test")
    if own is not None and known in (None, fingerprint(own.data.test)):
        return _Questions(own.data.test, own.record)
    if promise.rows_file is not None:
        return _Questions(read_rows(parent.folder / promise.rows_file), promise.data)
    return _read_again(task, promise, "" if own is None else "the data of this job have other rows")


def _read_again(task: AnyTask, promise: Exam, found: str) -> _Questions:
    """Return the test rows of the data set that the suite names, if they are still the same."""
    none_kept = "; ".join(filter(None, ["the package keeps no test rows", promise.reason, found]))
    if not promise.data.spec or "test" not in promise.data.fingerprints:
        return _Questions(None, promise.data, f"{none_kept}, and its suite names no data set")
    try:
        spec = DatasetSpec.model_validate(promise.data.spec)
        rows = load_task(spec, form=task.form()).test
    except (OrchestratorError, ValueError) as error:
        return _Questions(None, promise.data, f"{none_kept}, and its data cannot be read: {error}")
    if fingerprint(rows) != promise.data.fingerprints["test"]:
        reason = f"{none_kept}, and the test rows of {spec.source} have another fingerprint now"
        return _Questions(None, promise.data, reason)
    return _Questions(rows, promise.data)


def _exam(task: AnyTask, questions: _Questions, child: Answering, parent: Parent | None) -> Exam:
    """Ask the child, and the parent where it has this task."""
    primary, rows = task.primary.name, questions.rows
    promised = parent is not None and task.head in parent.suite.exams
    blank = Exam(
        task=task.spec,
        data=questions.data,
        status="unverified",
        reason=questions.reason or "it was not asked",
        primary=primary,
    )
    if rows is None:
        return blank
    try:
        found = measure(task, rows, child.answers(rows, task.head))
    except OrchestratorError as error:
        if not promised:
            raise
        return blank.model_copy(update={"reason": f"it cannot answer its rows: {error}"})
    before = None if parent is None else _parent_measured(task, rows, parent)
    return Exam(
        task=task.spec,
        data=questions.data,
        status="measured",
        rows=len(rows),
        primary=primary,
        metrics={
            name: Figure(value=each.value, low=each.low, high=each.high)
            for name, each in found.metrics.items()
        },
        parent=None if parent is None or before is None else parent.ref,
        differences={}
        if before is None
        else {name: _difference(each) for name, each in compare_all(before, found).items()},
    )


def _parent_measured(task: AnyTask, rows: Rows, parent: Parent) -> Measured | None:
    """Return what the parent reaches on the rows; None: it has no such task, or cannot answer."""
    before = parent.model.tasks.get(task.head)
    if before is None or before.kind() != task.kind() or before.labels != task.labels:
        return None
    try:
        return measure(before, rows, parent.model.answers(rows, task.head))
    except OrchestratorError:
        return None  # nothing to compare with: the gate refuses


def _difference(found: Comparison) -> Difference:
    return Difference(
        parent=found.parent,
        drop=found.drop,
        low=found.low,
        high=found.high,
        bound=found.bound,
        lost=found.lost,
        gained=found.gained,
        p_value=found.p_value,
    )


def _sample(rows: Rows, limit: int) -> Rows:
    """Return at most ``limit`` random rows, in their order: each row with the same chance."""
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:limit]
    return rows.take(np.sort(chosen))


def _keep_exemplars(
    head: str,
    task: AnyTask,
    folder: Path,
    parent: Parent | None,
    own: Learned | None,
    limit: int,
) -> None:
    """Keep training rows of a task, its classes as equal as possible, or those of the parent."""
    if not limit:
        return
    rows = None if own is None else own.data.train
    if rows is None and parent is not None:
        stored = parent.folder / EXEMPLARS_FOLDER / f"{head}.parquet"
        rows = read_rows(stored) if stored.is_file() else None
    if rows is None or not len(rows):
        return
    if len(rows) > limit:
        form = task.form()
        keys = [fingerprint(rows.take([row])) for row in range(len(rows))]
        rows = rows.take(cap_indices(form.strata(rows.labels), keys, limit, SEED))
    write_rows(folder / EXEMPLARS_FOLDER / f"{head}.parquet", rows)
