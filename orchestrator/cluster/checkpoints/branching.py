"""Start a run from a checkpoint of another one: a branch of it.

The checkpoint's files are linked into the branch's own folder (copied where the file system has no
hard links), so that the branch resumes from it as from one of its own. The other run is only read:
it may go on, and may remove its checkpoint, without the branch noticing. Any engine with any number
of workers reads what any other has written.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Literal

from orchestrator.cluster.checkpoints.reading import PREFIX, Checkpoint
from orchestrator.cluster.checkpoints.store import CHECKPOINTS, CheckpointFolder
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import temporary_sibling, verify_folder
from orchestrator.storage.stores import Store, open_store
from orchestrator.training.curve_parts import copy_parts
from orchestrator.training.history import CurvePosition

logger = logging.getLogger(__name__)

Step = int | Literal["latest"]


def find_checkpoint(place: Path, step: Step = "latest") -> Checkpoint:
    """Return a committed checkpoint without reading its weights.

    Args:
        place: Folder of a run, its folder of checkpoints, or one checkpoint.
        step: Which of them; ``latest``: the newest.

    Raises:
        InputError: There is none; lists the steps that are there.
    """
    if place.name.startswith(PREFIX) and place.is_dir():
        folder, step = CheckpointFolder(place.parent), int(place.name.removeprefix(PREFIX))
    else:
        inner = place / CHECKPOINTS
        folder = CheckpointFolder(inner if inner.is_dir() else place)
        step = _chosen(place, folder.steps(), step)
    try:
        return folder.at(step, verify=False)
    except (IntegrityError, OSError) as error:
        raise InputError(f"train.start_from: no intact checkpoint: {error}") from error


def _chosen(place: Path, found: list[int], step: Step) -> int:
    if not found:
        what = "has no checkpoints" if place.is_dir() else "does not exist"
        raise InputError(
            f"train.start_from: {place} {what}. A finished run keeps none with "
            "train.keep_last: 0. Its package can be started from as well."
        )
    wanted = found[-1] if step == "latest" else step
    if wanted not in found:
        raise InputError(
            f"train.start_from: {place} has no checkpoint of step {wanted}; it has "
            f"{', '.join(map(str, found))}. Use one of them, or set train.keep_every_steps in "
            "that run, so that more of them stay."
        )
    return wanted


def link_checkpoint(checkpoint: Checkpoint, root: Path) -> None:
    """Make a checkpoint the first one of another run; once.

    Args:
        checkpoint: Where the branch starts; its files are compared with their hashes.
        root: The branch's folder of checkpoints.

    Raises:
        IntegrityError: A file is damaged.
    """
    final = root / checkpoint.path.name
    if final.is_dir():
        return
    verify_folder(checkpoint.path)
    root.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(final)
    shutil.copytree(checkpoint.path, staged, copy_function=_link)
    _copy_curves(checkpoint, open_store(checkpoint.path.parent.parent), open_store(root.parent))
    staged.replace(final)
    logger.info("starting from %s", checkpoint.path)


def _copy_curves(checkpoint: Checkpoint, source: Store, target: Store) -> None:
    """Copy the learning curves before a checkpoint, which lie beside the checkpoints of its run."""
    stored = checkpoint.extra.get("curves")
    if stored is not None:
        copy_parts(source, target, CurvePosition.model_validate(stored))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
