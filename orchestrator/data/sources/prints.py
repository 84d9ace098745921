"""What tells files from others: their bytes, or a sample of them where there are very many."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from orchestrator.data.sources.formats import is_compressed, suffix_of
from orchestrator.errors import InputError

HASHED_BYTES = 1 << 30  # of all files together; more are sampled
WINDOWS = 4
WINDOW_BYTES = 1 << 16


def fingerprint(files: Sequence[Path]) -> str:
    """Return the SHA-256 over formats, sizes and contents of files, in their order.

    Up to 1 GiB in all, every byte counts. Beyond, four windows of each file, and when the file was
    last changed; so a copy of very many files with other times counts as another source.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        sizes = [path.stat().st_size for path in files]
        sampled = sum(sizes) > HASHED_BYTES
        for path, size in zip(files, sizes, strict=True):
            format_ = f"{suffix_of(path)} {is_compressed(path)}"
            content = _sampled(path, size) if sampled else _whole(path)
            digest.update(f"{format_} {size} {content}\n".encode())
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    return digest.hexdigest()


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sampled(path: Path, size: int) -> str:
    digest = hashlib.sha256(str(path.stat().st_mtime_ns).encode())
    with path.open("rb") as file:
        for number in range(WINDOWS):
            file.seek(number * max(size - WINDOW_BYTES, 0) // (WINDOWS - 1))
            digest.update(file.read(WINDOW_BYTES))
    return digest.hexdigest()
