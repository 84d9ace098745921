"""Folders of this host that hold a part of a committed folder on an object store.

A checkpoint is large, and a rank needs few of its files. Its manifest and the address are here;
a file is fetched, and compared with its hash, when somebody opens it.
"""

from pathlib import Path

from orchestrator.storage.atomic import atomic_write_text
from orchestrator.storage.remote.mirror import PATIENCE_S, Mirror
from orchestrator.storage.remote.remote_store import RemoteStore
from orchestrator.storage.verify import read_manifest

ADDRESS = ".address"
"""File with the address of the whole folder."""


def mark_partial(folder: Path, address: str) -> None:
    """Make a folder with a manifest one whose other files are fetched when they are needed."""
    atomic_write_text(folder / ADDRESS, address)


def is_partial(folder: Path) -> bool:
    """Return whether files of a folder may be on an object store only."""
    return (folder / ADDRESS).is_file()


def file_names(folder: Path) -> list[str]:
    """Return the sorted names of the files of a folder, whether they are here or not."""
    if is_partial(folder):
        return sorted(read_manifest(folder)["files"])
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def present(path: Path) -> Path:
    """Return a file, after fetching it where its folder is partial and it is not here.

    Raises:
        IntegrityError: It is damaged on the store.
        StageError: The store failed for too long, or the disk is full.
    """
    if path.exists() or not is_partial(path.parent):
        return path
    address = (path.parent / ADDRESS).read_text(encoding="utf-8")
    files = read_manifest(path.parent)["files"]
    if path.name in files:
        mirror = Mirror(RemoteStore(address, PATIENCE_S), path.parent)
        mirror.pull({path.name: files[path.name]["sha256"]})
    return path
