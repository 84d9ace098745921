"""One interface over a local folder and an object store: what a zoo needs of either."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from orchestrator.storage.uris import local_path


class Store(Protocol):
    """Folders of committed files under one root; paths are relative to it, ``/`` between parts."""

    root: str

    def read(self, path: str, limit: int) -> bytes:
        """Read a file of at most ``limit`` bytes. Raises FileNotFoundError, IntegrityError."""

    def read_many(self, paths: Sequence[str], limit: int) -> dict[str, bytes]:
        """Read several small files; what is missing or unreadable is left out."""

    def write(self, path: str, data: bytes) -> None:
        """Replace a file atomically."""

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


def open_store(root: str | Path) -> Store:
    """Return the store of a root: a local path, ``file://``, or any address fsspec knows."""
    from orchestrator.storage.local_store import LocalStore
    from orchestrator.storage.remote_store import RemoteStore

    path = local_path(root)
    return LocalStore(path) if path is not None else RemoteStore(str(root))
