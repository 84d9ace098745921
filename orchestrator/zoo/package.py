"""One committed package: its manifest, its files, and nothing that was not verified."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage.files import sha256_bytes
from orchestrator.storage.json_files import MAX_JSON_BYTES, Model, parse_json, parse_model
from orchestrator.storage.stores import Store
from orchestrator.storage.verify import require_digest, require_sizes
from orchestrator.zoo.cache import local_copy
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
