"""Locks between processes: one writer at a time, and nothing stays locked when a writer dies.

`filelock` takes the lock. What it does not do is written here: the message that names the holder,
and the process id that decides on file systems without locks (ENOLCK, not only ENOSYS).
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor
from pydantic import ValidationError

from orchestrator.config.strict import StrictModel
from orchestrator.errors import StageError
from orchestrator.storage.disk_failures import explained

POLL_S = 0.02
"""Pause between two attempts to take a lock."""
MAX_HOLDER_BYTES = 4096
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
logger = logging.getLogger(__name__)


class LockedError(StageError):
    """Another process holds the lock."""


class Holder(StrictModel):
    """The process that holds a lock: the content of the lock file."""

    pid: int | None = None
    """Process id; null: nobody has written the file yet."""
    host: str = "?"
    """Name of its machine."""
    since: int = 0
    """Time when it took the lock, in seconds since the epoch."""

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {since}"

    def is_alive(self) -> bool:
        """Return whether the process still runs; on another host, assume so."""
        if self.pid is None:
            return False
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    The kernel's lock decides, so the lock of a dead process is free at once. Where the file system
    has no locks, the process id in the file decides. The file itself stays, unless its holder
    removes it.

    Args:
        path: The lock file; created when needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise.

        Raises:
            LockedError: Another process, or another part of this one, holds it; names the holder.
            StageError: The folder cannot be written.
        """
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        holder = _read_holder(descriptor)
        # A file that its holder removed just now locks nothing any more.
        if not _try_lock(descriptor, holder) or not os.fstat(descriptor).st_nlink:
            os.close(descriptor)
            raise LockedError(f"{self.path}: held by {holder}.")
        if holder.pid not in (None, os.getpid()):
            logger.warning("event=stale_lock_taken_over path=%s holder=%s", self.path, holder)
        _write_holder(descriptor)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; without one nothing happens."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def locked(path: Path, deadline_s: float = 60.0) -> Iterator[None]:
    """Hold a `FileLock` inside the ``with`` block, waiting for it up to the deadline.

    Args:
        path: The lock file.
        deadline_s: Seconds to wait.

    Raises:
        LockedError: It was not free within ``deadline_s`` seconds.
    """
    lock = FileLock(path)
    end = time.monotonic() + deadline_s
    while True:
        try:
            lock.acquire()
            break
        except LockedError:
            if time.monotonic() > end:
                raise
            time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


def _try_lock(descriptor: int, holder: Holder) -> bool:
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return not holder.is_alive()


def _read_holder(descriptor: int) -> Holder:
    """Return the holder that the file names; nobody where the file is empty or damaged."""
    try:
        return Holder.model_validate_json(os.pread(descriptor, MAX_HOLDER_BYTES, 0))
    except ValidationError:
        return Holder()


def _write_holder(descriptor: int) -> None:
    holder = Holder(pid=os.getpid(), host=socket.gethostname(), since=int(time.time()))
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder.model_dump_json().encode(), 0)
