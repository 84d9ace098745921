"""One interface over a local folder and an object store: what a zoo needs of either.

The local store is here; `remote` has the one on fsspec, which is imported only when needed.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import IntegrityError
from orchestrator.storage import operations
from orchestrator.storage.atomic import (
    GRACE_S,
    atomic_write_bytes,
    is_temporary,
    sweep_temporary,
    temporary_sibling,
)
from orchestrator.storage.commit import commit_new_folder
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.files import scan, sha256_file
from orchestrator.storage.json_files import read_limited
from orchestrator.storage.locks import locked
from orchestrator.storage.uris import local_path

LOCK_DEADLINE_S = 60.0
"""Seconds that a writer waits for the lock of another one."""


class Store(Protocol):
    """Folders of committed files under one root; paths are relative to it, ``/`` between parts."""

    root: str

    def read(self, path: str, limit: int) -> bytes:
        """Read a file of at most ``limit`` bytes. Raises FileNotFoundError, IntegrityError."""

    def read_many(self, paths: Sequence[str], limit: int) -> dict[str, bytes]:
        """Read several small files; what is missing or unreadable is left out."""

    def write(self, path: str, data: bytes) -> None:
        """Replace a file atomically."""

    def create(self, path: str, data: bytes) -> None:
        """Make a file that must not be there; one of many writers succeeds.

        Args:
            path: The file.
            data: Unlike what any other writer would store there.

        Raises:
            FileExistsError: It is there.
        """

    def remove(self, path: str) -> None:
        """Remove a file; nothing there is fine."""

    def files(self, path: str = "") -> list[str]:
        """Return the sorted names of the files directly in a folder."""

    def folders(self, path: str = "") -> list[str]:
        """Return the sorted names of the folders inside a folder; uncommitted ones are left out."""

    def sizes(self, path: str) -> dict[str, int]:
        """Return relative path → bytes of every file under a folder. Raises IntegrityError."""

    def commit_new(self, staged: Path, path: str, manifest: Mapping[str, Any]) -> None:
        """Commit a local folder under a free name. Raises FolderExistsError."""

    def drop(self, path: str) -> None:
        """Remove a committed folder so that no reader ever sees half of it."""

    def lock(self, path: str) -> AbstractContextManager[None]:
        """Hold an exclusive lock; the lock of a dead process becomes free."""

    def sweep(self, path: str, grace_s: float) -> list[str]:
        """Remove what killed writers left in a folder longer than ``grace_s`` seconds ago."""

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of the stored bytes. Raises FileNotFoundError, IntegrityError."""

    def local(self, path: str) -> Path | None:
        """Return where a folder lies on this machine, or None when it must be fetched."""

    def fetch(self, path: str, names: Sequence[str], target: Path) -> None:
        """Copy files of a folder into a local one."""

    def scratch(self, path: str) -> Path | None:
        """Return a temporary sibling of ``path`` to write a draft into, or None when remote."""


class LocalStore:
    """A folder on a local or mounted file system; see `Store`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # workers may have another current folder
        self.root = str(self.folder)

    def read(self, path: str, limit: int) -> bytes:
        """See `Store.read`."""
        return read_limited(self.folder / path, limit)

    def read_many(self, paths: Sequence[str], limit: int) -> dict[str, bytes]:
        """See `Store.read_many`."""
        found = {}
        for path in paths:
            try:
                found[path] = self.read(path, limit)
            except (FileNotFoundError, IntegrityError):
                continue  # left out: the caller compares with what it asked for
        return found

    def write(self, path: str, data: bytes) -> None:
        """See `Store.write`."""
        atomic_write_bytes(self.folder / path, data)

    def create(self, path: str, data: bytes) -> None:
        """See `Store.create`."""
        with explained(self.folder / path):
            operations.make_folder((self.folder / path).parent)
            operations.write_file(self.folder / path, data)

    def remove(self, path: str) -> None:
        """See `Store.remove`."""
        with explained(self.folder / path):
            operations.remove(self.folder / path)

    def files(self, path: str = "") -> list[str]:
        """See `Store.files`."""
        place = self.folder / path
        with explained(place):
            return sorted(p.name for p in place.iterdir() if p.is_file()) if place.is_dir() else []

    def folders(self, path: str = "") -> list[str]:
        """See `Store.folders`."""
        place = self.folder / path
        if not place.is_dir():
            return []
        with explained(place):
            found = [p.name for p in place.iterdir() if p.is_dir() and not is_temporary(p.name)]
        return sorted(found)

    def sizes(self, path: str) -> dict[str, int]:
        """See `Store.sizes`."""
        place = self.folder / path
        if place.is_symlink():
            raise IntegrityError(f"{place}: is a symbolic link. Only regular folders are accepted.")
        return scan(place) if place.is_dir() else {}

    def commit_new(self, staged: Path, path: str, manifest: Mapping[str, Any]) -> None:
        """See `Store.commit_new`."""
        commit_new_folder(staged, self.folder / path, manifest)

    def drop(self, path: str) -> None:
        """See `Store.drop`: the folder loses its name in one step, then its files go."""
        place = self.folder / path
        doomed = temporary_sibling(place)
        with explained(place):
            operations.replace(place, doomed)
            operations.sync_folder(place.parent)
            operations.remove(doomed)

    def lock(self, path: str) -> AbstractContextManager[None]:
        """See `Store.lock`."""
        return locked(self.folder / path, LOCK_DEADLINE_S)

    def sweep(self, path: str, grace_s: float = GRACE_S) -> list[str]:
        """See `Store.sweep`."""
        with explained(self.folder / path):
            return [str(swept) for swept in sweep_temporary(self.folder / path, grace_s)]

    def sha256(self, path: str) -> str:
        """See `Store.sha256`."""
        try:
            return sha256_file(self.folder / path)
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise IntegrityError(f"{self.folder / path}: cannot be read ({reason}).") from error

    def local(self, path: str) -> Path | None:
        """See `Store.local`."""
        return self.folder / path

    def fetch(self, path: str, names: Sequence[str], target: Path) -> None:
        """See `Store.fetch`."""
        for name in names:
            operations.make_folder((target / name).parent)
            operations.copy_file(self.folder / path / name, target / name)

    def scratch(self, path: str) -> Path | None:
        """See `Store.scratch`."""
        place = temporary_sibling(self.folder / path)
        with explained(place):
            operations.make_folder(place)
        return place


def open_store(root: str | Path) -> Store:
    """Return the store of a root: a local path, ``file://``, or any address fsspec knows."""
    from orchestrator.storage.remote.remote_store import RemoteStore

    path = local_path(root)
    return LocalStore(path) if path is not None else RemoteStore(str(root))
