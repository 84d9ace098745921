"""Tasks that the starting package promised and the stream does not learn.

Their data are not in the stream. What protects them is what the package keeps: its weights as
anchors, and its exemplars, which give the importance of each weight and rows to rehearse.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.rows.rows import Rows
from orchestrator.data.rows.storage import read_rows
from orchestrator.storage.json_files import read_model
from orchestrator.tasks.base import AnyTask, build_task
from orchestrator.zoo.suite import EXEMPLARS_FOLDER, SUITE_FILE, Suite


@dataclass(frozen=True, slots=True)
class Promised:
    """One promised task.

    Attributes:
        task: The task, by the suite of the package.
        exemplars: Training rows that the package keeps; None: it keeps none.
    """

    task: AnyTask
    exemplars: Rows | None


def read_promised(package: Path, learned: Collection[str]) -> dict[str, Promised]:
    """Return the promised tasks by the name of their head.

    Args:
        package: Folder of a verified package.
        learned: Heads that the stream learns; they have data of their own.

    Raises:
        IntegrityError: The suite or the exemplars cannot be read.
    """
    if not (package / SUITE_FILE).is_file():
        return {}
    found = {}
    for head, exam in read_model(package / SUITE_FILE, Suite).exams.items():
        if head not in learned:
            path = package / EXEMPLARS_FOLDER / f"{head}.parquet"
            rows = read_rows(path) if path.is_file() else None
            found[head] = Promised(build_task(exam.task), rows)
    return found
