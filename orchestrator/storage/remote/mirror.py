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
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import operations
from orchestrator.storage.atomic import atomic_write_bytes, temporary_sibling
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.files import scan, sha256_file
from orchestrator.storage.json_files import MAX_JSON_BYTES, parse_json
from orchestrator.storage.locks import locked
from orchestrator.storage.remote.remote_store import RemoteStore
from orchestrator.storage.uris import cache_folder, local_path
from orchestrator.storage.verify import check_manifest, require_digest

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

    def within(self, name: str) -> Self:
        """Return the mirror of a folder in this one."""
        store = RemoteStore(f"{self.store.root}/{name}", self.store.patience_s, self.store.say)
        return replace(self, store=store, folder=self.folder / name)

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

    def push_folder(self, name: str) -> None:
        """Commit a committed folder of the staging folder to the store, manifest last.

        Nothing happens where the same one is committed there; another one is replaced.

        Raises:
            StageError: See `push`; the store then has no committed folder of this name.
        """
        manifest = (self.folder / name / MANIFEST_NAME).read_bytes()
        there = self._manifest_bytes(name)
        if there == manifest:
            return
        if there is not None:
            self.store.drop(name)
        self.push([each for each in scan(self.folder / name) if each != MANIFEST_NAME], name)
        self.push([MANIFEST_NAME], name)

    def pull_folder(self, name: str) -> bool:
        """Copy a committed folder from the store; False: there is none.

        One that is committed here, and has the same manifest, is taken as it is.

        Raises:
            IntegrityError: A file is not what the manifest says.
            StageError: The store failed for too long, or the disk is full.
        """
        there = self._manifest_bytes(name)
        if there is None:
            return False
        where, final = f"{self.store.root}/{name}/{MANIFEST_NAME}", self.folder / name
        if (final / MANIFEST_NAME).is_file() and (final / MANIFEST_NAME).read_bytes() == there:
            return True
        files = check_manifest(parse_json(there, where), where)["files"]
        (final / MANIFEST_NAME).unlink(missing_ok=True)
        self.pull({each: entry["sha256"] for each, entry in files.items()}, name)
        atomic_write_bytes(final / MANIFEST_NAME, there)
        return True

    def _manifest_bytes(self, name: str) -> bytes | None:
        try:
            return self.store.read(f"{name}/{MANIFEST_NAME}", MAX_JSON_BYTES)
        except FileNotFoundError:
            return None

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


def local_folder(place: str) -> Path:
    """Return a place as a folder of this machine: a path, or an address's staging folder."""
    path = local_path(place)
    return staging_folder(place.rstrip("/")) if path is None else path.resolve()


def local_copy(place: str) -> Path:
    """Return a committed folder as one of this machine; that of an address is fetched once.

    Raises:
        InputError: The address has no committed folder.
        IntegrityError: A file there is damaged.
        StageError: The store failed for too long, or the disk is full.
    """
    if local_path(place) is not None:
        return local_folder(place)
    parent, _, name = place.rstrip("/").rpartition("/")
    mirror = Mirror.of(parent)
    with locked(mirror.folder / f".{name}.lock", PATIENCE_S):  # processes of one machine share it
        if not mirror.pull_folder(name):
            raise InputError(f"{place}: nothing is committed there.")
    return mirror.folder / name


def staging_folder(address: str) -> Path:
    """Return the folder of this machine that stands for a run's address."""
    digest = sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / RUNS / digest / address.rsplit("/", 1)[-1]


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name
