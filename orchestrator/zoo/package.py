"""One committed package: its manifest, its files, and nothing that was not verified.

Packages of an object store are read from verified local copies.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import operations
from orchestrator.storage.atomic import sweep_temporary, temporary_sibling
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.files import sha256_bytes
from orchestrator.storage.json_files import MAX_JSON_BYTES, Model, parse_json, parse_model
from orchestrator.storage.stores import Store
from orchestrator.storage.uris import cache_folder
from orchestrator.storage.verify import require_digest, require_sizes, verify_folder
from orchestrator.zoo.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from orchestrator.zoo.safety import require_allowed_names, require_sane_tensors

if TYPE_CHECKING:
    import pandas as pd

HISTORY_NAME = "history.parquet"


class Package:
    """A package of a zoo.

    Attributes:
        manifest: The validated manifest.
        manifest_sha256: SHA-256 of the manifest's bytes; children record it.
    """

    def __init__(self, store: Store, manifest: Manifest, manifest_bytes: bytes) -> None:
        self.manifest = manifest
        self.manifest_sha256 = sha256_bytes(manifest_bytes)
        self._store = store
        self._manifest_bytes = manifest_bytes

    @classmethod
    def read(cls, store: Store, name: str, version: str) -> "Package":
        """Read the manifest of a package; the files are checked by `verify` or `path`.

        Raises:
            IntegrityError: Not committed, a damaged manifest, or one of another package.
        """
        where = f"{store.root}/{name}/{version}/{MANIFEST_NAME}"
        try:
            data = store.read(f"{name}/{version}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            message = f"{store.root}/{name}/{version}: has no {MANIFEST_NAME}: never committed."
            raise IntegrityError(message) from error
        return cls.from_bytes(store, name, version, data, where)

    @classmethod
    def from_bytes(
        cls, store: Store, name: str, version: str, data: bytes, where: str
    ) -> "Package":
        """Build a package from the bytes of its manifest; see `read`."""
        manifest = parse_manifest(data, where)
        if (manifest.name, manifest.version) != (name, version):
            raise IntegrityError(f"{where}: belongs to {manifest.ref}, not to {name}/{version}.")
        return cls(store, manifest, data)

    def __repr__(self) -> str:
        return f"Package({self.ref!r}, kind={self.kind!r})"

    @property
    def name(self) -> str:
        """Name of the package."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version, like ``v0003``."""
        return self.manifest.version

    @property
    def ref(self) -> str:
        """Reference, like ``name/v0003``."""
        return self.manifest.ref

    @property
    def kind(self) -> str:
        """Kind of stage that made it: pretrained, imported, finetuned, continual or quantized."""
        return self.manifest.kind

    @property
    def rejected(self) -> bool:
        """Whether a gate rejected it when it was made."""
        return self.manifest.status == "rejected"

    @property
    def location(self) -> str:
        """Folder or address of the package."""
        return f"{self._store.root}/{self.ref}"

    @cached_property
    def path(self) -> Path:
        """A local folder with the files: the package itself, or a verified copy of a remote one.

        Raises:
            IntegrityError: A remote package is not what its manifest says.
        """
        local = self._store.local(self.ref)
        if local is not None:
            return local
        require_allowed_names(self.location, self.manifest.files)
        copy = local_copy(self._store, self.manifest, self._manifest_bytes)
        self._require_sane_tensors(copy)
        return copy

    def load(self) -> None:
        """Make sure that what `path` gives is whole: hash the files, fetch a remote package.

        Raises:
            IntegrityError: Naming the first file that is not what it should be.
        """
        if self._store.local(self.ref) is not None:
            self.verify()
        _ = self.path

    def verify(self) -> None:
        """Check every stored file: its kind, name, size and hash, and local tensors' headers.

        Raises:
            IntegrityError: Naming the first file that is not what it should be.
        """
        require_allowed_names(self.location, self.manifest.files)
        found = self._store.sizes(self.ref)
        found.pop(MANIFEST_NAME, None)
        listed = {name: {"bytes": entry.bytes} for name, entry in self.manifest.files.items()}
        require_sizes(self.location, listed, found)
        for name in self.manifest.files:
            self._require_hash(name)
        local = self._store.local(self.ref)
        if local is not None:
            self._require_sane_tensors(local)

    def _require_hash(self, name: str) -> None:
        where = f"{self.location}/{name}"
        try:
            actual = self._store.sha256(f"{self.ref}/{name}")
        except FileNotFoundError as error:
            raise IntegrityError(f"{where}: missing, although the manifest lists it.") from error
        require_digest(where, actual, self.manifest.files[name].sha256)

    def has(self, relative: str) -> bool:
        """Return whether the package holds a file."""
        return relative in self.manifest.files

    def read_bytes(self, relative: str) -> bytes:
        """Read one small file and check its hash, without fetching the others.

        Raises:
            InputError: The package has no such file.
            IntegrityError: Its content is not what the manifest says.
        """
        entry = self.manifest.files.get(relative)
        if entry is None:
            held = ", ".join(self.manifest.files)
            raise InputError(f"{self.ref} has no file {relative!r}. It has: {held}.")
        where = f"{self.location}/{relative}"
        try:
            data = self._store.read(f"{self.ref}/{relative}", MAX_JSON_BYTES)
        except FileNotFoundError as error:
            raise IntegrityError(f"{where}: missing, although the manifest lists it.") from error
        require_digest(where, sha256_bytes(data), entry.sha256)
        return data

    def read_json(self, relative: str) -> Any:
        """Read one JSON file; see `read_bytes`."""
        return parse_json(self.read_bytes(relative), f"{self.location}/{relative}")

    def read_model(self, relative: str, kind: type[Model]) -> Model:
        """Read one JSON file that a stage wrote from a model.

        Raises:
            IntegrityError: As `read_bytes`, or it is not what the model describes.
        """
        return parse_model(self.read_json(relative), kind, f"{self.location}/{relative}")

    def history(self) -> "pd.DataFrame | None":
        """Return the training history, or None when the package has none.

        Returns:
            Columns step, epoch, split, metric, value, seconds; one row per logged value.

        Raises:
            IntegrityError: The file is damaged.
        """
        if not self.has(HISTORY_NAME):
            return None
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(self.read_bytes(HISTORY_NAME)))
        except (pa.ArrowException, OSError) as error:
            message = f"{self.location}/{HISTORY_NAME}: damaged: {error}"
            raise IntegrityError(message) from error
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return frame

    def _require_sane_tensors(self, folder: Path) -> None:
        for name in self.manifest.files:
            if name.endswith(".safetensors"):
                require_sane_tensors(folder / name)


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
