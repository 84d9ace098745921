"""The store on anything fsspec reaches: S3, GCS, memory."""

import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.storage import operations
from orchestrator.storage.atomic import GRACE_S, is_temporary
from orchestrator.storage.commit import CLAIM, MANIFEST_NAME, commit_new_folder
from orchestrator.storage.disk_failures import (
    explained,
    is_full,
    remote_explained,
    remote_write_explained,
)
from orchestrator.storage.locks import POLL_S, LockedError
from orchestrator.storage.remote.patience import patient
from orchestrator.storage.uris import remote_filesystem

LOCK_DEADLINE_S = 60.0
"""Seconds that a writer waits for the lock of another one."""
LEASE_S = 20.0
"""A lock object that did not change for this long belongs to a dead process."""


logger = logging.getLogger(__name__)


class RemoteStore:
    """A prefix of an object store, through fsspec; see `Store`.

    Args:
        uri: Address of the prefix.
        patience_s: Longest time that reading, writing and listing are tried again while the store
            cannot be reached; 0: they fail at once.
        say: Receives what a user should know meanwhile.
    """

    def __init__(
        self, uri: str, patience_s: float = 0.0, say: Callable[[str], None] = logger.warning
    ) -> None:
        self.root = uri.rstrip("/")
        self.patience_s, self.say = patience_s, say
        self._fs, path = remote_filesystem(self.root)
        self._prefix = path.rstrip("/")

    def _at(self, path: str) -> str:
        return f"{self._prefix}/{path}" if path else self._prefix

    def _uri(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    @patient
    def read(self, path: str, limit: int) -> bytes:
        """See `Store.read`."""
        with remote_explained(self._uri(path)):
            size = self._fs.info(self._at(path))["size"]
            if size > limit:
                message = f"{size:,} bytes are more than the {limit:,} allowed for this file."
                raise IntegrityError(f"{self._uri(path)}: {message}")
            data: bytes = self._fs.cat_file(self._at(path))
        return data

    def read_many(self, paths: Sequence[str], limit: int) -> dict[str, bytes]:
        """See `Store.read_many`; the objects are fetched concurrently."""
        if not paths:
            return {}
        places = {self._at(path): path for path in paths}
        with remote_explained(self.root):
            found = self._fs.cat(list(places), on_error="omit")
        if isinstance(found, bytes):  # fsspec returns bare bytes for one path
            found = {next(iter(places)): found}
        return {places[place]: data for place, data in found.items() if len(data) <= limit}

    @patient
    def write(self, path: str, data: bytes) -> None:
        """See `Store.write`."""
        with remote_write_explained(self._uri(path)):
            operations.put_bytes(self._fs, self._at(path), data)

    @patient
    def create(self, path: str, data: bytes) -> None:
        """See `Store.create`: a conditional write."""
        try:
            with remote_write_explained(self._uri(path)):
                operations.put_new_bytes(self._fs, self._at(path), data)
        except FileExistsError:
            if self._owner(path) != data:  # else an earlier try succeeded and its answer was lost
                raise

    @patient
    def put(self, source: Path, path: str) -> None:
        """Store a local file; a large one in several parts at once."""
        with remote_write_explained(self._uri(path)):
            operations.put_file(self._fs, source, self._at(path))

    @patient
    def remove(self, path: str) -> None:
        """See `Store.remove`."""
        with remote_write_explained(self._uri(path)):
            operations.delete_object(self._fs, self._at(path))

    def files(self, path: str = "") -> list[str]:
        """See `Store.files`."""
        return sorted(_last(entry["name"]) for entry in self._entries(path) if _is_file(entry))

    def folders(self, path: str = "") -> list[str]:
        """See `Store.folders`."""
        names = [entry["name"] for entry in self._entries(path) if entry["type"] == "directory"]
        return sorted(name for name in map(_last, names) if not is_temporary(name))

    @patient
    def _entries(self, path: str) -> list[dict[str, Any]]:
        with remote_explained(self._uri(path)):
            try:
                return list(self._fs.ls(self._at(path), detail=True))
            except FileNotFoundError:
                return []

    @patient
    def sizes(self, path: str) -> dict[str, int]:
        """See `Store.sizes`."""
        prefix = self._at(path).lstrip("/") + "/"
        with remote_explained(self._uri(path)):
            found = self._fs.find(self._at(path), detail=True)
        return {
            name.lstrip("/").removeprefix(prefix): int(info["size"])
            for name, info in sorted(found.items())
        }

    def commit_new(self, staged: Path, path: str, manifest: Mapping[str, Any]) -> None:
        """See `Store.commit_new`."""
        commit_new_folder(staged, self._uri(path), manifest)

    @patient
    def drop(self, path: str) -> None:
        """See `Store.drop`: the manifest goes first, as it makes a package."""
        names = sorted(self.sizes(path), key=lambda name: name != MANIFEST_NAME)
        with remote_write_explained(self._uri(path)):
            for name in names:
                operations.delete_object(self._fs, self._at(f"{path}/{name}"))
            operations.delete_prefix(self._fs, self._at(path))

    @contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """See `Store.lock`: an object that only one writer can create, with a lease."""
        owner = uuid.uuid4().hex.encode()
        self._take(path, owner)
        try:
            yield
        finally:
            with remote_write_explained(self._uri(path)):
                if self._owner(path) == owner:
                    operations.delete_object(self._fs, self._at(path))

    def _take(self, path: str, owner: bytes) -> None:
        end = time.monotonic() + LOCK_DEADLINE_S
        seen, since = b"", time.monotonic()
        while time.monotonic() < end:
            try:
                with remote_write_explained(self._uri(path)):
                    operations.put_new_bytes(self._fs, self._at(path), owner)
            except FileExistsError:
                holder = self._owner(path)
                if holder != seen:
                    seen, since = holder, time.monotonic()
                elif time.monotonic() - since > LEASE_S:
                    operations.delete_object(self._fs, self._at(path))
                time.sleep(POLL_S)
            else:
                return
        raise LockedError(
            f"{self._uri(path)}: another writer holds it for {LOCK_DEADLINE_S:.0f} s."
        )

    def _owner(self, path: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(self._at(path))
        except FileNotFoundError:
            return b""
        return data

    def sweep(self, path: str, grace_s: float = GRACE_S) -> list[str]:
        """See `Store.sweep`: prefixes that were claimed and never got their manifest."""
        swept = []
        for entry in self._entries(path):
            name = _last(entry["name"])
            if not name.endswith(CLAIM) or self._age(entry["name"]) < grace_s:
                continue
            folder = f"{path}/{name.removesuffix(CLAIM)}"
            if MANIFEST_NAME not in self.sizes(folder):
                self.drop(folder)
                swept.append(self._uri(folder))
            with remote_write_explained(self._uri(path)):
                operations.delete_object(self._fs, entry["name"])
        return swept

    def _age(self, place: str) -> float:
        with remote_explained(place):
            return time.time() - float(self._fs.modified(place).timestamp())

    @patient
    def sha256(self, path: str) -> str:
        """See `Store.sha256`; the object is read in pieces and not kept."""
        with remote_explained(self._uri(path)), self._fs.open(self._at(path), "rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(operations.COPY_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def local(self, path: str) -> Path | None:
        """See `Store.local`."""
        return None

    def fetch(self, path: str, names: Sequence[str], target: Path) -> None:
        """See `Store.fetch`."""
        for name in names:
            operations.make_folder((target / name).parent)
            self.get(f"{path}/{name}" if path else name, target / name)

    @patient
    def get(self, path: str, target: Path) -> None:
        """Copy an object into a local file. Raises FileNotFoundError, StageError."""
        with remote_explained(self._uri(path)):
            try:
                self._fs.get_file(self._at(path), str(target))
            except OSError as error:
                if not is_full(error):
                    raise
                with explained(target):
                    raise

    def scratch(self, path: str) -> Path | None:
        """See `Store.scratch`."""
        return None


def _is_file(entry: Mapping[str, Any]) -> bool:
    return entry["type"] == "file" and not entry["name"].endswith("/")


def _last(place: str) -> str:
    return place.rstrip("/").rsplit("/", 1)[-1]
