"""Messages for failures of the disk: what is intact, and what to do."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import OrchestratorError, StageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RUST_CODE = re.compile(r"\bos error (\d+)|\bcode: (\d+)")
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_PERMANENT = (PermissionError, FileNotFoundError, TypeError, ValueError, ImportError)
"""Errors of a remote filesystem about wrong credentials, buckets and addresses."""
_CREDENTIALS = re.compile("Credential|Token|Auth")
"""Names of other exceptions that mean missing or refused credentials."""


class UnreachableError(StageError):
    """A remote store failed in a way that may pass: the network, or the store itself."""


@contextmanager
def explained(path: str | Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn an `OSError` raised while ``path`` is written into a `StageError` that explains it.

    Args:
        path: What is being written.
        needed_bytes: Size of what is being written, for the message when the disk is full.

    Raises:
        StageError: The disk is full, the place is read-only or not ours, or the device failed.
        FileExistsError: Passed on; the caller knows what a name that is taken means.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise StageError(_explain(path, error, needed_bytes)) from error


@contextmanager
def remote_explained(uri: str) -> Iterator[None]:
    """Turn whatever a remote filesystem raises while it is read into a `StageError`.

    Raises:
        StageError: Credentials, network or the store itself failed; names the address.
        FileNotFoundError: Passed on.
    """
    try:
        yield
    except (OrchestratorError, FileNotFoundError):
        raise
    except Exception as error:
        raise _remote_failure(uri, error) from error


@contextmanager
def remote_write_explained(uri: str) -> Iterator[None]:
    """Turn whatever a remote filesystem raises while it is written into a `StageError`.

    Raises:
        StageError: No such bucket, credentials, network or the store itself failed.
        FileExistsError: Passed on; the caller knows what a name that is taken means.
    """
    try:
        yield
    except (OrchestratorError, FileExistsError):
        raise
    except Exception as error:
        raise _remote_failure(uri, error) from error


def _remote_failure(uri: str, error: Exception) -> StageError:
    kind = type(error).__name__
    text = f"{uri}: the store failed ({kind}: {error})."
    if isinstance(error, _PERMANENT) or _CREDENTIALS.search(kind):
        return StageError(f"{text} Check the address, the bucket and the credentials.")
    return UnreachableError(f"{text} Check the address, the bucket, the credentials, the network.")


def is_full(error: BaseException | None) -> bool:
    """Return whether an error means that there is no space left."""
    return isinstance(error, OSError) and error.errno in _FULL


def require_space(path: Path, needed_bytes: int) -> None:
    """Raise before anything is written when the file system of a path has too little room.

    Raises:
        OSError: ``ENOSPC``; `explained` makes the message of it.
    """
    free = _free_bytes(path)
    if free is not None and free < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def system_error(error: BaseException) -> OSError | None:
    """Return the operating system's error behind an exception of a Rust library, if any.

    ``safetensors`` raises an exception of its own that names the code in its text.
    """
    found = _RUST_CODE.search(str(error))
    if isinstance(error, OSError) or found is None:
        return None
    code = int(found.group(1) or found.group(2))
    return OSError(code, os.strerror(code))


def _explain(path: str | Path, error: OSError, needed_bytes: int | None) -> str:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        free = _free_bytes(Path(path))
        need = f"{needed_bytes:,} bytes are needed" if needed_bytes is not None else "no space left"
        have = f", {free:,} are free" if free is not None else ""
        return (
            f"{path}: {reason}: {need}{have}. What was there before is intact; free some space "
            "or choose another place, and start again."
        )
    if error.errno in _REFUSED:
        return (
            f"{path}: cannot be written ({reason}). Choose a writable place (run.dir, run.zoo) "
            "or change its permissions."
        )
    return f"{path}: cannot be written ({reason}). What was there before is intact."


def _free_bytes(path: Path) -> int | None:
    for place in (path, *path.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return None
