"""Commit a folder: everything in it becomes visible in one step, or nothing does.

Local: the files and the folders are brought to the disk, the manifest is written last, the folder
gets its final name, the parent is brought to the disk. Object stores cannot rename: the files are
uploaded first and the manifest object is the commit; readers ignore a prefix without one.
"""

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError, StageError
from orchestrator.storage import operations
from orchestrator.storage.atomic import ASIDE, MARK, is_temporary, temporary_sibling
from orchestrator.storage.disk_failures import explained, remote_write_explained
from orchestrator.storage.files import FileEntry, scan, sha256_file
from orchestrator.storage.json_files import json_bytes
from orchestrator.storage.uris import local_path, remote_filesystem

MANIFEST_NAME = "manifest.json"
CLAIM = f"{MARK}claim"
"""Ending of the object that reserves a prefix on an object store while it is uploaded."""
NOTHING_KNOWN: Mapping[str, FileEntry] = {}
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}


class FolderExistsError(OrchestratorError):
    """Somebody else committed, or is committing, a folder of this name."""


def commit_folder(
    staged: Path,
    final: str | Path,
    manifest: Mapping[str, Any],
    manifest_name: str = MANIFEST_NAME,
    known: Mapping[str, FileEntry] = NOTHING_KNOWN,
) -> None:
    """Commit ``staged`` under the name ``final``; a committed folder there is replaced.

    Replacing is one step (the two names are exchanged) where the file system can do that. Where it
    cannot, the old folder is set aside for two renames and `sweep_temporary` restores it if needed.

    Args:
        staged: Folder with the files; it is gone afterwards, and left where it is on failure.
        final: Local path, or a URI where nothing is committed yet.
        manifest: The manifest without ``files``: relative path → sha256 and bytes.
        manifest_name: Name of the manifest file.
        known: Files that their writers have hashed and brought to the disk (`write_hashed`), also
            on other hosts: only their sizes are compared. All other files are read and hashed.

    Raises:
        FolderExistsError: ``final`` is on an object store and taken.
        IntegrityError: ``staged`` holds links or unsafe names.
        StageError: Disk full, read-only, or the store failed; the old state is intact.
    """
    path = local_path(final)
    if path is None:
        _commit_remote(staged, str(final), manifest, manifest_name)
        return
    with _ready(staged, path, manifest, manifest_name, known) as ready:
        try:
            operations.replace(ready, path)
        except OSError as error:
            if error.errno not in _TAKEN or not path.is_dir():
                raise
            _replace_committed(ready, path)
    with explained(path):
        operations.sync_folder(path.parent)


@contextmanager
def staged(
    final: Path, manifest: Mapping[str, Any], manifest_name: str = MANIFEST_NAME
) -> Iterator[Path]:
    """Write a folder beside ``final``: committed when the block ends, removed when it fails.

    Args:
        final: Name that the folder gets; a committed folder there is replaced.
        manifest: As for `commit_folder`; read when the block ends, so the block may fill it.
        manifest_name: As for `commit_folder`.

    Yields:
        An empty temporary folder, invisible to readers.

    Raises:
        IntegrityError: As `commit_folder`.
        StageError: Disk full, read-only, or the device failed, in the block or in the commit; the
            old state is intact and nothing is left of the new one.
    """
    folder = temporary_sibling(final)
    try:
        with explained(final):
            operations.make_folder(folder)
            yield folder
            commit_folder(folder, final, manifest, manifest_name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def commit_new_folder(
    staged: Path,
    final: str | Path,
    manifest: Mapping[str, Any],
    manifest_name: str = MANIFEST_NAME,
) -> None:
    """Commit ``staged`` under a name that must be free; among many writers exactly one succeeds.

    Raises:
        FolderExistsError: ``final`` is taken; ``staged`` is left for another try.
        IntegrityError: As `commit_folder`.
        StageError: As `commit_folder`.
    """
    path = local_path(final)
    if path is None:
        _commit_remote(staged, str(final), manifest, manifest_name)
        return
    with _ready(staged, path, manifest, manifest_name) as ready:
        try:
            operations.replace(ready, path)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            raise FolderExistsError(f"{path} exists already.") from error
    with explained(path):
        operations.sync_folder(path.parent)


def complete_manifest(
    folder: Path,
    manifest: Mapping[str, Any],
    manifest_name: str,
    known: Mapping[str, FileEntry] = NOTHING_KNOWN,
) -> dict[str, Any]:
    """Return the manifest with ``files``: relative path → ``{"sha256": …, "bytes": …}``.

    Raises:
        StageError: A file in ``known`` is not there as it was written.
    """
    sizes = scan(folder)
    for name, entry in known.items():
        if sizes.get(name) != entry.bytes:
            raise StageError(
                f"{folder / name}: {sizes.get(name, 0)} of {entry.bytes} bytes arrived. "
                "Nothing was committed; start again."
            )
    files = {
        name: {
            "sha256": known[name].sha256 if name in known else sha256_file(folder / name),
            "bytes": size,
        }
        for name, size in sizes.items()
        if name != manifest_name
    }
    return {**manifest, "files": files}


@contextmanager
def _ready(
    staged: Path,
    final: Path,
    manifest: Mapping[str, Any],
    manifest_name: str,
    known: Mapping[str, FileEntry] = NOTHING_KNOWN,
) -> Iterator[Path]:
    """Yield a complete, synced temporary sibling of ``final``; undo it when the body fails."""
    content = complete_manifest(staged, manifest, manifest_name, known)
    data = json_bytes(content)
    needed = len(data) + sum(entry["bytes"] for entry in content["files"].values())
    with explained(final, needed):
        operations.make_folder(final.parent)
        ready, copied = _as_sibling(staged, final, [*content["files"]], known)
        try:
            operations.remove(ready / manifest_name)  # of an earlier try
            operations.write_file(ready / manifest_name, data)
            for folder in _folders(ready):
                operations.sync_folder(folder)
            yield ready
        except BaseException:
            _undo(ready, staged, copied)
            raise
        if copied:
            operations.remove(staged)


def _as_sibling(
    staged: Path, final: Path, names: list[str], known: Mapping[str, FileEntry]
) -> tuple[Path, bool]:
    """Bring the files to the disk next to ``final``: in place, by a rename, or else by copying."""
    if staged.parent.absolute() == final.parent.absolute() and is_temporary(staged.name):
        ready, copied = staged, False
    else:
        ready, copied = temporary_sibling(final), False
        try:
            operations.replace(staged, ready)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copied = True
    try:
        for name in names:
            if copied:
                operations.make_folder((ready / name).parent)
                operations.copy_file(staged / name, ready / name)
            elif name not in known:
                operations.sync_file(ready / name)
    except BaseException:
        _undo(ready, staged, copied)
        raise
    return ready, copied


def _undo(ready: Path, staged: Path, copied: bool) -> None:
    """Give the caller the staged folder back; what was only a copy disappears."""
    if copied:
        shutil.rmtree(ready, ignore_errors=True)
    elif ready != staged and ready.exists() and not staged.exists():
        ready.rename(staged)


def _folders(root: Path) -> list[Path]:
    """Return every folder of a tree, the deepest first."""
    inner = [path for path in root.rglob("*") if path.is_dir()]
    return [*sorted(inner, key=lambda path: -len(path.parts)), root]


def _replace_committed(ready: Path, path: Path) -> None:
    """Put ``ready`` in the place of a folder that has files, in one step where that is possible."""
    if operations.exchange(ready, path):
        operations.remove(ready)
        return
    aside = temporary_sibling(path, ASIDE)
    operations.replace(path, aside)
    operations.replace(ready, path)
    operations.remove(aside)


def _commit_remote(staged: Path, uri: str, manifest: Mapping[str, Any], manifest_name: str) -> None:
    """Upload the files, check that all arrived, then store the manifest.

    A claim object keeps a second writer off the prefix. The claim of a writer that died makes the
    name unusable until it is swept: callers that number their folders take the next number.
    """
    content = complete_manifest(staged, manifest, manifest_name)
    fs, root = remote_filesystem(uri)
    taken = FolderExistsError(f"{uri} exists already, or is being written.")
    with remote_write_explained(uri):
        try:
            operations.put_new_bytes(fs, root + CLAIM, b"claimed\n")
        except FileExistsError as error:
            raise taken from error
        if fs.exists(f"{root}/{manifest_name}"):
            operations.delete_object(fs, root + CLAIM)
            raise taken
        for name in content["files"]:
            operations.put_file(fs, staged / name, f"{root}/{name}")
        _require_arrived(fs, root, uri, content["files"])
        operations.put_bytes(fs, f"{root}/{manifest_name}", json_bytes(content))
        operations.delete_object(fs, root + CLAIM)
    with explained(staged):
        operations.remove(staged)


def _require_arrived(fs: Any, root: str, uri: str, files: Mapping[str, Any]) -> None:
    found = {name: info["size"] for name, info in fs.find(root, detail=True).items()}
    for name, entry in files.items():
        size = next((s for key, s in found.items() if key.endswith(f"{root}/{name}")), None)
        if size != entry["bytes"]:
            message = f"{uri}/{name}: {size} of {entry['bytes']} bytes arrived."
            raise StageError(f"{message} Nothing was committed; start again.")
