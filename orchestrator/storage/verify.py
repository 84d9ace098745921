"""Check committed folders against their manifests and find the newest that is whole."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.storage.atomic import is_temporary
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.files import scan, sha256_file, unsafe_reason
from orchestrator.storage.json_files import read_json

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
logger = logging.getLogger(__name__)


def verify_folder(path: str | Path, manifest_name: str = MANIFEST_NAME) -> dict[str, Any]:
    """Check that a folder holds exactly what its manifest says: names, then sizes, then hashes.

    Returns:
        The manifest.

    Raises:
        IntegrityError: Not committed, a file missing, changed, truncated or not listed, a link or
            an unsafe name; the message names the file.
    """
    folder = Path(path)
    manifest = read_manifest(folder, manifest_name)
    found = scan(folder)
    found.pop(manifest_name, None)
    require_sizes(str(folder), manifest["files"], found)
    for name, entry in manifest["files"].items():
        require_hash(folder / name, entry["sha256"])
    return manifest


def read_manifest(folder: Path, manifest_name: str = MANIFEST_NAME) -> dict[str, Any]:
    """Read the manifest of a committed folder and check its list of files.

    Raises:
        IntegrityError: There is none, it is damaged, or it lists unsafe names.
    """
    if folder.is_symlink() or not folder.is_dir():
        kind = "a symbolic link" if folder.is_symlink() else "not there"
        raise IntegrityError(f"{folder}: is {kind}, so there is no committed folder.")
    try:
        manifest = read_json(folder / manifest_name)
    except FileNotFoundError as error:
        message = f"{folder}: has no {manifest_name}: it was never committed."
        raise IntegrityError(message) from error
    return check_manifest(manifest, f"{folder / manifest_name}", manifest_name)


def check_manifest(manifest: Any, where: str, manifest_name: str = MANIFEST_NAME) -> dict[str, Any]:
    """Check the shape of a manifest's ``files``.

    Raises:
        IntegrityError: It is not a mapping, or a file's name, hash or size is not acceptable.
    """
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise IntegrityError(f"{where}: damaged: it has no mapping 'files'.")
    for name, entry in files.items():
        reason = unsafe_reason(name)
        if reason is not None or name == manifest_name:
            why = reason or "the manifest cannot list itself"
            raise IntegrityError(f"{where}: the file name {name[:200]!r} is refused: {why}.")
        if not _is_entry(entry):
            raise IntegrityError(f"{where}: damaged: {name!r} has no valid sha256 and bytes.")
    return dict(manifest)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return False
    size, digest = entry.get("bytes"), entry.get("sha256")
    is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return is_size and isinstance(digest, str) and _SHA256.match(digest) is not None


def require_sizes(where: str, listed: Mapping[str, Any], found: Mapping[str, int]) -> None:
    """Compare what a manifest lists with what lies there.

    Raises:
        IntegrityError: Naming the first file that is missing, not listed, or of another size.
    """
    for name in listed:
        if name not in found:
            raise IntegrityError(f"{where}/{name}: missing, although the manifest lists it.")
    for name, size in found.items():
        if name not in listed:
            raise IntegrityError(f"{where}/{name}: not in the manifest. It is not loaded.")
        if size != listed[name]["bytes"]:
            expected = listed[name]["bytes"]
            raise IntegrityError(
                f"{where}/{name}: damaged: {size} bytes, the manifest says {expected}."
            )


def require_hash(path: Path, sha256: str) -> None:
    """Check one file's SHA-256.

    Raises:
        IntegrityError: It differs or the file cannot be read.
    """
    try:
        actual = sha256_file(path)
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror or error}).") from error
    require_digest(str(path), actual, sha256)


def require_digest(where: str, actual: str, expected: str) -> None:
    """Compare a file's SHA-256 with the manifest's.

    Raises:
        IntegrityError: They differ.
    """
    if actual != expected:
        message = f"sha256 is {actual[:12]}…, the manifest says {expected[:12]}…"
        raise IntegrityError(f"{where}: damaged: {message}. Restore it or make it again.")


def newest_valid(
    root: str | Path, pattern: str = "*", manifest_name: str = MANIFEST_NAME
) -> Path | None:
    """Return the newest folder that is committed and whole; damaged ones are skipped and logged.

    Args:
        root: Folder to look in; a missing one holds nothing.
        pattern: Glob pattern of the folders' names.
        manifest_name: Name of the manifest file.

    Returns:
        The folder whose name has the highest numbers, not the youngest by the clock.
    """
    for folder in newest_first(Path(root), pattern):
        try:
            verify_folder(folder, manifest_name)
        except IntegrityError as error:
            logger.warning("event=damaged_folder_skipped reason=%r", str(error))
        else:
            return folder
    return None


def newest_first(root: Path, pattern: str) -> list[Path]:
    """Return the folders matching a pattern, by the numbers in their names, highest first."""
    folders = [p for p in root.glob(pattern) if p.is_dir() and not is_temporary(p.name)]
    return sorted(folders, key=lambda p: natural_key(p.name), reverse=True)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sorting key in which ``step-9`` comes before ``step-10``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
