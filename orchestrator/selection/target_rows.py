"""Rows of the target, and the check before the start that they are no column of the matrix."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.selection.candidates import dataset_facts, protocol_of
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.costs.epoch_times import FORWARD_SHARE
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.selection.target_tasks import TargetTask, kind_of, label_form, target_task

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.training.config import FineTuneConfig

MAX_READ_BYTES = 2**24
"""Larger files are not read by a check."""


def load_target(config: SelectConfig) -> tuple["TaskData", TargetTask]:
    """Return the rows of the target, and what is asked about them.

    Raises:
        InputError: They cannot be read, or are not of the kind of task.
    """
    from orchestrator.data.sources.opening import load_task

    kind = kind_of(config.target, config.task)
    rows = load_task(config.target, form=label_form(kind))
    return rows, target_task(rows, kind, config.task, config.metric)


@dataclass(frozen=True)
class RowCounts:
    """Rows of a target that trials read.

    Attributes:
        train: Training rows.
        validation: Validation rows.
    """

    train: int
    validation: int

    @classmethod
    def of(cls, task: "TaskData") -> "RowCounts":
        """Count the rows of a task."""
        return cls(len(task.train), len(task.validation))

    def evaluation(self, fine_tune: "FineTuneConfig") -> float:
        """Expected share of an epoch's seconds that its evaluation takes."""
        trained = min(self.train, fine_tune.max_train_rows or self.train)
        read = min(self.validation, fine_tune.max_eval_rows or self.validation)
        forward = FORWARD_SHARE * read / trained
        return forward / (1.0 + forward)


def rows_at_hand(config: SelectConfig, matrix: PerformanceMatrix) -> RowCounts | None:
    """Count the rows of a target; None: it is remote or large, and is not read.

    Raises:
        InputError: The target, or a near-duplicate of it, is a column of the matrix.
    """
    if not _is_at_hand(config.target):
        return None
    task, asked = load_target(config)
    protocol = protocol_of(config.fine_tune, config.seed, config.precision)
    matrix.guard(task.name, dataset_facts(task, protocol, asked) if matrix.datasets else None)
    return RowCounts.of(task)


def _is_at_hand(spec: "DatasetSpec") -> bool:
    from orchestrator.data.sources.files import find_files

    if spec.scheme != "files":
        return spec.scheme == "builtin"
    files = [file for group in find_files(spec, labelled=True).values() for file in group]
    return sum(file.stat().st_size for file in files) <= MAX_READ_BYTES
