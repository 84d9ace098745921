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

from orchestrator.cluster.checkpoints.reading import PREFIX, Checkpoint, step_of
from orchestrator.cluster.checkpoints.remote import RemoteCheckpoints
from orchestrator.cluster.checkpoints.store import CHECKPOINTS, CheckpointFolder
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import read_manifest, temporary_sibling, verify_folder
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.remote.mirror import Mirror
from orchestrator.storage.remote.partial import ADDRESS, is_partial, present
from orchestrator.storage.stores import open_store
from orchestrator.storage.uris import local_path
from orchestrator.storage.verify import require_hash
from orchestrator.training.curve_parts import copy_parts
from orchestrator.training.history import CurvePosition

logger = logging.getLogger(__name__)

Step = int | Literal["latest"]


def find_checkpoint(place: str | Path, step: Step = "latest") -> Checkpoint:
    """Return a committed checkpoint without reading its weights.

    Args:
        place: A run, its folder of checkpoints, or one checkpoint: a path or an address.
        step: Which of them; ``latest``: the newest.

    Raises:
        InputError: There is none; lists the steps that are there.
    """
    folder, named = _opened(place)
    chosen = _chosen(place, folder.steps(), step) if named is None else named
    try:
        return folder.at(chosen, verify=False)
    except (IntegrityError, OSError) as error:
        raise InputError(f"train.start_from: no intact checkpoint: {error}") from error


def _opened(place: str | Path) -> tuple[CheckpointFolder, int | None]:
    """Return the checkpoints at a place, and the step of the one that it names."""
    path = local_path(place)
    if path is not None:
        if path.name.startswith(PREFIX) and path.is_dir():
            return CheckpointFolder(path.parent), step_of(path.name)
        inner = path / CHECKPOINTS
        return CheckpointFolder(inner if inner.is_dir() else path), None
    parent, _, name = str(place).rstrip("/").rpartition("/")
    if name.startswith(PREFIX):
        return RemoteCheckpoints(Mirror.of(parent)), step_of(name)
    run = Mirror.of(f"{parent}/{name}")
    return RemoteCheckpoints(run if name == CHECKPOINTS else run.within(CHECKPOINTS)), None


def _chosen(place: str | Path, found: list[int], step: Step) -> int:
    if not found:
        path = local_path(place)
        what = "has no checkpoints" if path is None or path.is_dir() else "does not exist"
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


def link_checkpoint(checkpoint: Checkpoint, folder: CheckpointFolder) -> None:
    """Make a checkpoint the first one of another run; once.

    Args:
        checkpoint: Where the branch starts; its files are compared with their hashes.
        folder: The branch's checkpoints.

    Raises:
        IntegrityError: A file is damaged.
        StageError: An object store failed for too long.
    """
    if checkpoint.step in folder.steps():
        return
    files = _whole(checkpoint.path)
    _copy_curves(checkpoint, folder)
    if isinstance(folder, RemoteCheckpoints):
        name = folder.name_of(checkpoint.step)
        folder.mirror.push(files, name, checkpoint.path)
        folder.mirror.push([MANIFEST_NAME], name, checkpoint.path)
    else:
        final = folder.root / f"{PREFIX}{checkpoint.step:08d}"
        folder.root.mkdir(parents=True, exist_ok=True)
        staged = temporary_sibling(final)
        leave_out = shutil.ignore_patterns(ADDRESS)
        shutil.copytree(checkpoint.path, staged, copy_function=_link, ignore=leave_out)
        staged.replace(final)
    logger.info("starting from %s", checkpoint.path)


def _whole(folder: Path) -> list[str]:
    """Return the files of a checkpoint but the manifest, after comparing all with their hashes."""
    if not is_partial(folder):
        return [*verify_folder(folder)["files"]]
    files = read_manifest(folder)["files"]
    for name, entry in files.items():
        require_hash(present(folder / name), entry["sha256"])
    return [*files]


def _copy_curves(checkpoint: Checkpoint, folder: CheckpointFolder) -> None:
    """Copy the learning curves before a checkpoint, which lie beside the checkpoints of its run."""
    stored, path = checkpoint.extra.get("curves"), checkpoint.path
    if stored is not None:
        place = (path / ADDRESS).read_text(encoding="utf-8") if is_partial(path) else str(path)
        source = open_store(place.rsplit("/", 2)[0])
        target = open_store(folder.where.rpartition("/")[0])
        copy_parts(source, target, CurvePosition.model_validate(stored))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
