"""Every operation that changes stored state, and nothing else.

Commits, aliases and journals are sequences of file operations. A hook sees each one before it
happens; a test that ends the process inside the hook has killed the writer between two operations.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Hook = Callable[[str, str], None]
"""Called with the operation's name and the path it is about to change."""

COPY_CHUNK_BYTES = 8 * 2**20
_RENAME_EXCHANGE = 2  # flag of renameat2(2): swap two names in one step
_AT_FDCWD = -100  # renameat2(2): paths are relative to the current folder
_hook: Hook | None = None


@contextmanager
def fault_hook(hook: Hook) -> Iterator[None]:
    """Call ``hook`` before every operation inside the ``with`` block; for fault injection."""
    global _hook  # noqa: PLW0603  (one process, one hook: that is the point)
    previous, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = previous


def _before(operation: str, path: str | Path) -> None:
    if _hook is not None:
        _hook(operation, str(path))


def make_folder(path: Path) -> None:
    """Create a folder and its parents; an existing one is fine."""
    if path.is_dir():
        return
    _before("mkdir", path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", str(path)) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and bring it to the disk. Raises FileExistsError when it is there."""
    _before("create", path)
    with path.open("xb") as file:
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            _before("write", path)
            file.write(part)
            file.flush()
        _before("fsync", path)
        os.fsync(file.fileno())


def write_pieces(
    path: Path, pieces: Iterable[memoryview], seen: Callable[[memoryview], None]
) -> None:
    """Write a new file piece by piece and bring it to the disk.

    Args:
        path: A name that is free; FileExistsError when it is not.
        pieces: The content.
        seen: Called with each piece before it is written.
    """
    _before("create", path)
    with path.open("xb") as file:
        for piece in pieces:
            seen(piece)
            _before("write", path)
            file.write(piece)
        _before("fsync", path)
        file.flush()
        os.fsync(file.fileno())


def copy_file(source: Path, target: Path) -> None:
    """Copy a regular file's bytes to a new file and bring them to the disk."""
    _before("create", target)
    with open_regular(source) as reader, target.open("xb") as writer:
        while chunk := reader.read(COPY_CHUNK_BYTES):
            _before("write", target)
            writer.write(chunk)
        _before("fsync", target)
        writer.flush()
        os.fsync(writer.fileno())


def open_regular(path: Path) -> Any:
    """Open a file for reading in binary; links and devices raise OSError instead of being read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def sync_file(path: Path) -> None:
    """Bring a file's bytes to the disk."""
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW)


def sync_folder(path: Path) -> None:
    """Bring a folder's entries (new names, renames) to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    _before("fsync", path)
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot fsync a folder
            raise
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target`` in one step; a full folder there raises OSError."""
    _before("replace", target)
    source.replace(target)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the file system or the kernel cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    _before("exchange", other)
    names = os.fsencode(one), os.fsencode(other)
    if function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            remove(child)
        _before("rmdir", path)
        path.rmdir()
        return
    _before("unlink", path)
    path.unlink(missing_ok=True)


def put_bytes(fs: Any, path: str, data: bytes) -> None:
    """Store an object; readers see the old bytes or the new ones."""
    _before("put", path)
    fs.pipe_file(path, data)


def put_new_bytes(fs: Any, path: str, data: bytes) -> None:
    """Store an object that must not exist. Raises FileExistsError when it does."""
    _before("put", path)
    fs.pipe_file(path, data, mode="create")


def put_file(fs: Any, source: Path, path: str) -> None:
    """Store a local file as an object."""
    _before("put", path)
    fs.put_file(str(source), path)


def delete_prefix(fs: Any, path: str) -> None:
    """Delete what is left under a prefix, folders included where a filesystem has them."""
    _before("delete", path)
    try:
        fs.rm(path, recursive=True)
    except FileNotFoundError:
        return


def delete_object(fs: Any, path: str) -> None:
    """Delete an object; nothing there is fine."""
    _before("delete", path)
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        return
