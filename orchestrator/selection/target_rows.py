"""Rows of the target, and the check before the start that they are no column of the matrix."""

from typing import TYPE_CHECKING

from orchestrator.selection.candidates import dataset_facts, protocol_of
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.selection.target_tasks import TargetTask, kind_of, label_form, target_task

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.data.spec import DatasetSpec

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


def rows_at_hand(config: SelectConfig, matrix: PerformanceMatrix) -> int | None:
    """Return how many training rows a target has; None: it is remote or large, and is not read.

    Raises:
        InputError: The target, or a near-duplicate of it, is a column of the matrix.
    """
    if not _is_at_hand(config.target):
        return None
    task, asked = load_target(config)
    protocol = protocol_of(config.fine_tune, config.seed, config.precision)
    matrix.guard(task.name, dataset_facts(task, protocol, asked) if matrix.datasets else None)
    return len(task.train)


def _is_at_hand(spec: "DatasetSpec") -> bool:
    from orchestrator.data.sources.files import find_files

    if spec.scheme != "files":
        return spec.scheme == "builtin"
    files = [file for group in find_files(spec, labelled=True).values() for file in group]
    return sum(file.stat().st_size for file in files) <= MAX_READ_BYTES
