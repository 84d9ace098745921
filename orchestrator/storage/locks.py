"""Locks between processes: one writer at a time, and nothing stays locked when a writer dies."""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import StageError
from orchestrator.storage.failures import explained

POLL_S = 0.02
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
logger = logging.getLogger(__name__)


class LockedError(StageError):
    """Another process holds the lock."""


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    The kernel's lock decides, so the lock of a dead process is free at once. Where the file system
    has no locks, the process id in the file decides. The file itself stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise.

        Raises:
            LockedError: Another process, or another part of this one, holds it; says which.
            StageError: The folder cannot be written.
        """
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        holder = _read_holder(descriptor)
        if not _try_lock(descriptor, holder):
            os.close(descriptor)
            raise LockedError(f"{self.path}: held by {_describe(holder)}.")
        if holder.get("pid") not in (None, os.getpid()):
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


def _try_lock(descriptor: int, holder: dict[str, Any]) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return not _is_alive(holder)
    return True


def _is_alive(holder: dict[str, Any]) -> bool:
    """Tell whether the process that wrote the file still runs; on another host, assume so."""
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _write_holder(descriptor: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _describe(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("since", 0)))
    return f"process {holder['pid']} on {holder.get('host', '?')} since {since}"
