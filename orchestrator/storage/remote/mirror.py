"""One run's folder on an object store, and its staging folder on this machine.

Everything reads and writes the staging folder. What has to survive this machine is copied to the
store, and the store decides: what a staging folder has and the store has not is left over. So a run
goes on from the store on any machine, with an empty staging folder. Files are copied first and the
manifest of a folder last, as its commit; nothing on a store is renamed.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from orchestrator.errors import IntegrityError
from orchestrator.storage import operations
from orchestrator.storage.atomic import atomic_write_bytes, temporary_sibling
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.files import sha256_file
from orchestrator.storage.json_files import MAX_JSON_BYTES
from orchestrator.storage.remote.remote_store import RemoteStore
from orchestrator.storage.uris import cache_folder
from orchestrator.storage.verify import require_digest

PATIENCE_S = 600.0
"""Longest time that one operation is tried again while the store cannot be reached."""
SAY_EVERY_S = 30.0
"""Seconds between two messages about copies that take long."""
RUNS = "runs"
"""Folder of the staging folders, below the user's cache."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A run's folder on an object store with its staging folder; see the module.

    Attributes:
        store: The run's folder.
        folder: The staging folder.
    """

    store: RemoteStore
    folder: Path

    @classmethod
    def of(cls, address: str, say: Callable[[str], None] = logger.warning) -> Self:
        """Return the mirror of a run's address on this machine.

        Args:
            address: The run's folder.
            say: Receives what a user should know while the store is slow or cannot be reached.

        Raises:
            InputError: An unknown protocol, or its package is not installed.
        """
        store = RemoteStore(address, PATIENCE_S, say)
        return cls(store, staging_folder(store.root))

    def push(self, names: Iterable[str], prefix: str = "", source: Path | None = None) -> None:
        """Copy files to the store, and say how far that is when it takes long.

        Args:
            names: Of the files, relative to their folder.
            prefix: Folder of the store that gets them.
            source: Folder that has them; None: that of the same name in the staging folder.

        Raises:
            StageError: The store failed for too long; names the file that was not copied.
        """
        place = self.folder / prefix if source is None else source
        sizes = {name: (place / name).stat().st_size for name in names}
        done, said = 0, time.monotonic()
        for name, size in sizes.items():
            self.store.put(place / name, _joined(prefix, name))
            done += size
            if time.monotonic() - said > SAY_EVERY_S:
                said, total = time.monotonic(), sum(sizes.values())
                self.store.say(f"{self.store.root}: {done:,} of {total:,} bytes are uploaded")

    def pull(self, files: Mapping[str, str | None], prefix: str = "") -> None:
        """Copy files from the store; those that are there with their hash stay.

        Args:
            files: Name → SHA-256, or None: it is not compared.
            prefix: Their folder.

        Raises:
            IntegrityError: A file is missing, or is not what its hash says.
            StageError: The store failed for too long, or the disk is full.
        """
        for name, digest in files.items():
            self._pull(_joined(prefix, name), digest)

    def _pull(self, name: str, digest: str | None) -> None:
        final, where = self.folder / name, f"{self.store.root}/{name}"
        if digest is not None and final.is_file() and sha256_file(final) == digest:
            return
        staged = temporary_sibling(final)
        with explained(final):
            operations.make_folder(final.parent)
        try:
            self.store.get(name, staged)
            if digest is not None:
                require_digest(where, sha256_file(staged), digest)
            with explained(final):
                operations.replace(staged, final)
        except FileNotFoundError as error:
            raise IntegrityError(f"{where}: missing on the store.") from error
        finally:
            staged.unlink(missing_ok=True)

    def pull_state(self, names: Iterable[str], folders: Iterable[str]) -> None:
        """Make small files here equal to those of the store; others of the same names go.

        Args:
            names: Files directly in the run's folder.
            folders: Folders with nothing but such files.

        Raises:
            StageError: The store failed for too long, or the disk is full.
        """
        there = set(names) & set(self.store.files())
        there |= {f"{folder}/{name}" for folder in folders for name in self.store.files(folder)}
        for folder in folders:
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        found = self.store.read_many(sorted(there), MAX_JSON_BYTES)
        for name in sorted(there):  # one that could not be read raises here
            data = found[name] if name in found else self.store.read(name, MAX_JSON_BYTES)
            atomic_write_bytes(self.folder / name, data)


def staging_folder(address: str) -> Path:
    """Return the folder of this machine that stands for a run's address."""
    digest = sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / RUNS / digest / address.rsplit("/", 1)[-1]


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name
