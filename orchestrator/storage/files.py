"""The regular files of a folder, their sizes and hashes; nothing else is tolerated."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from orchestrator.config.strict import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.storage import operations
from orchestrator.storage.operations import open_regular

MAX_PATH_LENGTH = 240
MAX_FILES = 100_000
HASH_CHUNK_BYTES = 2**20
"""Bytes that are hashed and then written while they are still in the processor's cache."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


class FileEntry(StrictModel):
    """One file in a manifest."""

    sha256: str
    """Hash of the content, in hexadecimal."""
    bytes: int
    """Size."""


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a regular file, read in pieces; links raise OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_hashed(path: Path, pieces: Iterable[bytes | memoryview]) -> FileEntry:
    """Write a file and hash it on the way; nothing is read back.

    Args:
        path: Local; a file that is there is removed first.
        pieces: The content.
    """
    digest, size = hashlib.sha256(), 0

    def seen(chunk: memoryview) -> None:
        nonlocal size
        digest.update(chunk)
        size += chunk.nbytes

    operations.remove(path)
    operations.write_pieces(path, _chunks(pieces), seen)
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def _chunks(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in filter(len, pieces):  # an empty view cannot be cast
        view = memoryview(piece).cast("B")
        for start in range(0, view.nbytes, HASH_CHUNK_BYTES):
            yield view[start : start + HASH_CHUNK_BYTES]


def unsafe_reason(relative: str) -> str | None:
    """Say why a path may not be stored in a folder, or None when it may.

    Allowed: relative, ``/`` between parts, no ``.``, ``..`` or empty part, no control character.
    """
    if not relative or len(relative) > MAX_PATH_LENGTH:
        return f"its length must be 1 to {MAX_PATH_LENGTH}"
    if _UNSAFE.search(relative):
        return "it contains a backslash or a control character"
    if relative.startswith("/") or re.match(r"^[A-Za-z]:", relative):
        return "it is absolute"
    if any(part in ("", ".", "..") for part in relative.split("/")):
        return "it contains an empty, '.' or '..' part"
    try:
        relative.encode("utf-8")
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return None


def scan(folder: Path) -> dict[str, int]:
    """List the regular files under a folder.

    Returns:
        POSIX path relative to ``folder`` → size in bytes, sorted.

    Raises:
        IntegrityError: A symbolic link, device, socket or unsafe name in it, or too many files.
    """
    found: dict[str, int] = {}
    for path, size in _walk(folder):
        relative = PurePosixPath(path.relative_to(folder)).as_posix()
        reason = unsafe_reason(relative)
        if reason is not None:
            raise IntegrityError(f"{folder}: the file name {relative!r} is refused: {reason}.")
        found[relative] = size
        if len(found) > MAX_FILES:
            raise IntegrityError(f"{folder}: more than {MAX_FILES:,} files.")
    return dict(sorted(found.items()))


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(path)
            elif stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            else:
                kind = "a symbolic link" if entry.is_symlink() else "no regular file"
                raise IntegrityError(f"{path}: is {kind}. Only regular files are accepted.")
