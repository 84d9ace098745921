"""Check that a run goes on with the labelled rows it started with, which its config only names."""

from collections.abc import Mapping

from orchestrator.config import StrictModel
from orchestrator.data.rows.rows import TaskData
from orchestrator.data.rows.storage import fingerprint
from orchestrator.errors import InputError
from orchestrator.storage import RunFolder

STEP = "rows"
SPLITS = ("train", "validation", "test")


class SeenRows(StrictModel):
    """Record in a run folder of the rows that the run started with."""

    fingerprints: dict[str, dict[str, str]]
    """Fingerprint of each split, by the name of the task."""


def require_same_rows(run: RunFolder, tasks: Mapping[str, TaskData]) -> None:
    """Record a run's rows when it begins, and refuse others when it goes on.

    Args:
        run: The run.
        tasks: Its tasks with their rows, by name.

    Raises:
        InputError: Rows of a task have changed; names it. Those of a file in another order are
            the same: splits have an order of their own.
    """
    now = {
        name: {split: fingerprint(task.split(split)) for split in SPLITS}
        for name, task in tasks.items()
    }
    before = run.once(STEP, SeenRows, lambda: SeenRows(fingerprints=now)).fingerprints
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise InputError(
            f"run {run.config.run.name!r} began with other rows of {', '.join(changed)}: rows were "
            "added, removed or changed. Put them back, or choose another run.name."
        )
