"""Replace one file, or one object, so that a reader finds the old bytes or the new ones."""

from pathlib import Path
from typing import Any

from orchestrator.storage import operations
from orchestrator.storage.failures import explained, remote_write_explained
from orchestrator.storage.json_files import json_bytes
from orchestrator.storage.temporary import temporary_sibling
from orchestrator.storage.uris import local_path, remote_filesystem


def atomic_write_bytes(path_or_uri: str | Path, data: bytes) -> None:
    """Write a file through a temporary sibling: write, fsync, rename, fsync the folder.

    Args:
        path_or_uri: A local path, ``file://``, or any address fsspec knows.
        data: The whole content.

    Raises:
        StageError: Disk full, read-only, no permission, or the store failed. The old content is
            intact and no temporary file is left.
    """
    path = local_path(path_or_uri)
    if path is None:
        fs, place = remote_filesystem(str(path_or_uri))
        with remote_write_explained(str(path_or_uri)):
            operations.put_bytes(fs, place, data)
        return
    temporary = temporary_sibling(path)
    with explained(path, len(data)):
        operations.make_folder(path.parent)
        try:
            operations.write_file(temporary, data)
            operations.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        operations.sync_folder(path.parent)


def atomic_write_text(path_or_uri: str | Path, text: str) -> None:
    """Write UTF-8 text; see `atomic_write_bytes`."""
    atomic_write_bytes(path_or_uri, text.encode("utf-8"))


def atomic_write_json(path_or_uri: str | Path, obj: Any) -> None:
    """Write a value as JSON; see `atomic_write_bytes` and `jsonable`."""
    atomic_write_bytes(path_or_uri, json_bytes(obj))
