"""Verified local copies of packages that lie on an object store."""

import hashlib
import os
from pathlib import Path

from orchestrator.errors import IntegrityError
from orchestrator.storage import operations
from orchestrator.storage.failures import explained
from orchestrator.storage.stores import Store
from orchestrator.storage.temporary import sweep_temporary, temporary_sibling
from orchestrator.storage.verify import verify_folder
from orchestrator.zoo.manifest import MANIFEST_NAME, Manifest

CACHE_VARIABLE = "ORCHESTRATOR_CACHE"


def cache_folder() -> Path:
    """Return where local copies and drafts of remote zoos lie.

    ``$ORCHESTRATOR_CACHE``, else ``$XDG_CACHE_HOME/ray-model-orchestrator``, else under
    ``~/.cache``.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ray-model-orchestrator"


def local_copy(store: Store, manifest: Manifest, manifest_bytes: bytes) -> Path:
    """Return a local copy of a package whose every hash was checked.

    A copy made before is verified again and used; a damaged one is fetched again.

    Raises:
        IntegrityError: What the store holds is not what the manifest says.
        StageError: The store or the local disk failed.
    """
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    zoo = hashlib.sha256(store.root.encode()).hexdigest()[:16]
    final = cache_folder() / "zoo" / zoo / manifest.name / f"{manifest.version}-{digest[:16]}"
    if _is_whole(final, manifest_bytes):
        return final
    sweep_temporary(final.parent)
    with explained(final, manifest.total_bytes):
        operations.make_folder(final.parent)
        staged = temporary_sibling(final)
        try:
            store.fetch(manifest.ref, list(manifest.files), staged)
            operations.make_folder(staged)
            operations.write_file(staged / MANIFEST_NAME, manifest_bytes)
            verify_folder(staged, MANIFEST_NAME)
            return _put_in_place(staged, final, manifest_bytes)
        finally:
            operations.remove(staged)


def _put_in_place(staged: Path, final: Path, manifest_bytes: bytes) -> Path:
    """Give the copy its name, unless another process was faster with a whole one."""
    if final.exists() and not _is_whole(final, manifest_bytes):
        doomed = temporary_sibling(final)
        operations.replace(final, doomed)
        operations.remove(doomed)
    try:
        operations.replace(staged, final)
    except OSError:
        if not _is_whole(final, manifest_bytes):
            raise
    return final


def _is_whole(folder: Path, manifest_bytes: bytes) -> bool:
    if not folder.is_dir():
        return False
    try:
        verify_folder(folder, MANIFEST_NAME)
        return (folder / MANIFEST_NAME).read_bytes() == manifest_bytes
    except IntegrityError:
        return False
