"""Tasks that the starting package promised and the stream does not learn.

Their data are not in the stream. What protects them is what the package keeps: its weights as
anchors, how important each is for them, and exemplars, which are rehearsed and measure importance
where none is kept.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.continual.parts.configs import PartConfig
from orchestrator.continual.parts.find import IMPORTANCE
from orchestrator.data.rows.rows import Rows
from orchestrator.data.rows.storage import read_rows
from orchestrator.inference.protection import FISHER, stored_tensors
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.storage.json_files import read_model
from orchestrator.tasks.base import AnyTask, build_task
from orchestrator.training.engines.optimizers import target_of
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


def unprotected(
    package: Path,
    heads: Iterable[TargetConfig],
    promised: Mapping[str, Promised],
    parts: Collection[PartConfig],
) -> list[str]:
    """Return those heads that no part of the method protects.

    Args:
        package: Folder of a verified package.
        heads: Heads of the package that the stream does not learn.
        promised: From `read_promised`.
        parts: The parts that are on.
    """
    stored = {**stored_tensors(package, IMPORTANCE), **stored_tensors(package, FISHER)}
    measured = {target_of(name) for name, value in stored.items() if value.any()}
    found = []
    for head in heads:
        rows = head.name in promised and promised[head.name].exemplars is not None
        known = {"importance": head.name in measured, "exemplars": rows}
        if not any(part.protects_head(head, **known) for part in parts):
            found.append(head.name)
    return found
