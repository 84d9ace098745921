"""Addresses: local paths, the fsspec filesystem of the rest, and the user's cache folder."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.errors import InputError


def local_path(path_or_uri: str | Path) -> Path | None:
    """Return the local path an address means, or None when it is remote.

    Raises:
        InputError: A ``file://`` address with a host.
    """
    if isinstance(path_or_uri, Path):
        return path_or_uri
    if path_or_uri.startswith("file://"):
        parts = urlsplit(path_or_uri)
        if parts.netloc not in ("", "localhost"):
            message = (
                f"{path_or_uri!r} names the host {parts.netloc!r}. Write file:///{parts.netloc}…"
            )
            raise InputError(f"{message} for a path on this machine.")
        return Path(unquote(parts.path))
    return None if "://" in path_or_uri else Path(path_or_uri)


def absolute(place: str) -> str:
    """Return a local path as an absolute one; addresses stay as they are.

    For what is handed to another process, whose current folder may differ.
    """
    return place if "://" in place else str(Path(place).expanduser().absolute())


def remote_filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URI and the path inside it.

    Raises:
        InputError: An unknown protocol, or its package is not installed.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        protocol = uri.split("://", 1)[0]
        known = "a path, file://, memory://, s3:// (extra `s3`), gs:// (package gcsfs)"
        raise InputError(
            f"{uri!r}: {protocol}:// cannot be used ({error}). Use {known}."
        ) from error
    return fs, str(path)


def cache_folder() -> Path:
    """Return the user's folder for local copies and drafts of remote zoos, and for parsed sources.

    ``$ORCHESTRATOR_CACHE``, else ``$XDG_CACHE_HOME/ray-model-orchestrator``, else under
    ``~/.cache``.
    """
    if chosen := os.environ.get("ORCHESTRATOR_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ray-model-orchestrator"
