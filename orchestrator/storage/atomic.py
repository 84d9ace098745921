"""Atomic replacement of one file or object, and temporary names of what is not committed yet.

A reader finds the old bytes or the new ones. A killed writer leaves only temporary names, which
readers skip and `sweep_temporary` removes.
"""

import logging
import time
import uuid
from pathlib import Path
from typing import Any

from orchestrator.storage import operations
from orchestrator.storage.disk_failures import explained, remote_write_explained
from orchestrator.storage.json_files import json_bytes
from orchestrator.storage.uris import local_path, remote_filesystem

MARK = ".tmp-"
"""Part of the name of everything uncommitted; readers skip such names."""
ASIDE = f"{MARK}old-"
"""Part of the name of a committed folder that is being replaced."""
GRACE_S = 24 * 3600.0
"""Leftovers younger than this may belong to a living writer."""

logger = logging.getLogger(__name__)


def atomic_write_bytes(path_or_uri: str | Path, data: bytes) -> None:
    """Write a file through a temporary sibling: write, fsync, rename, fsync the folder.

    Args:
        path_or_uri: A local path, ``file://``, or any address fsspec knows.
        data: The whole content.

    Raises:
        StageError: Disk full, read-only, no permission, or the store failed. The old content is
            intact and no temporary file is left.
    """
    path = local_path(path_or_uri)
    if path is None:
        fs, place = remote_filesystem(str(path_or_uri))
        with remote_write_explained(str(path_or_uri)):
            operations.put_bytes(fs, place, data)
        return
    temporary = temporary_sibling(path)
    with explained(path, len(data)):
        operations.make_folder(path.parent)
        try:
            operations.write_file(temporary, data)
            operations.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        operations.sync_folder(path.parent)


def atomic_write_text(path_or_uri: str | Path, text: str) -> None:
    """Write UTF-8 text; see `atomic_write_bytes`."""
    atomic_write_bytes(path_or_uri, text.encode("utf-8"))


def atomic_write_json(path_or_uri: str | Path, obj: Any) -> None:
    """Write a value as JSON; see `atomic_write_bytes` and `jsonable`."""
    atomic_write_bytes(path_or_uri, json_bytes(obj))


def temporary_sibling(path: Path, mark: str = MARK) -> Path:
    """Return an unused name next to ``path``, on the same file system."""
    return path.with_name(f"{path.name}{mark}{uuid.uuid4().hex[:12]}")


def is_temporary(name: str) -> bool:
    """Return whether a name belongs to something uncommitted."""
    return MARK in name


def sweep_temporary(root: str | Path, grace_s: float = GRACE_S) -> list[Path]:
    """Remove leftovers of killed writers directly inside a folder.

    A folder that was set aside to be replaced, and whose replacement never came, gets its name
    back instead.

    Args:
        root: Folder to sweep; a missing one is fine.
        grace_s: Leave what was changed less than this many seconds ago.

    Returns:
        What was removed or put back.
    """
    folder = Path(root)
    swept = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not is_temporary(path.name) or _is_recent(path, grace_s):
            continue
        original = path.with_name(path.name.split(ASIDE)[0])
        if ASIDE in path.name and not original.exists():
            operations.replace(path, original)
        else:
            operations.remove(path)
        logger.info("event=swept path=%s", path)
        swept.append(path)
    return swept


def _is_recent(path: Path, grace_s: float) -> bool:
    """Return whether a writer may still be at work; a path that just vanished has one."""
    try:
        return grace_s > 0 and time.time() - _last_change(path) < grace_s
    except FileNotFoundError:
        return True


def _last_change(path: Path) -> float:
    """Return the newest modification time in a tree, in seconds since the epoch."""
    times = [path.lstat().st_mtime]
    if path.is_dir() and not path.is_symlink():
        times += [child.lstat().st_mtime for child in path.rglob("*")]
    return max(times)
