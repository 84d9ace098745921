"""A package in the making: a scratch folder that becomes the next version, or disappears.

Its producer gets the source revision and the library versions, read without importing a library.
"""

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue, ValidationError

from orchestrator.config.messages import to_problems
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage.commit import FolderExistsError
from orchestrator.storage.disk_failures import explained, is_full
from orchestrator.storage.files import scan
from orchestrator.storage.json_files import jsonable, read_model
from orchestrator.storage.uris import cache_folder
from orchestrator.zoo.card import CARD_NAME, write_card
from orchestrator.zoo.flatness import FLATNESS_FILE, Flatness
from orchestrator.zoo.manifest import (
    MANIFEST_NAME,
    Kind,
    Manifest,
    Parent,
    Producer,
    build_task,
    now,
)
from orchestrator.zoo.names import require_name, version_name
from orchestrator.zoo.package import Package
from orchestrator.zoo.safety import require_allowed_names, require_sane_tensors

if TYPE_CHECKING:
    from orchestrator.zoo.zoo import Zoo

MAX_TRIES = 10_000
"""Versions tried when other writers keep taking the next one."""

LIBRARIES = (
    "ray-model-orchestrator",
    "ray",
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "safetensors",
    "onnx",
    "onnxruntime",
    "numpy",
    "pandas",
    "scikit-learn",
)
GIT_TIMEOUT_S = 5.0


class Draft:
    """Write files into `path`, then call `commit`. Without it nothing remains.

    Attributes:
        path: Local scratch folder.
        metrics: Summary figures of the manifest; may be filled until `commit`.
        task: Task of the manifest; may be set until `commit`.
        reasons: Why a gate rejects the package; may be set until `commit`. Without any it is
            accepted.
        card: Title to the rows (name, text) of a further section of the card; may be filled until
            `commit`.
    """

    def __init__(
        self,
        zoo: "Zoo",
        name: str,
        *,
        kind: Kind,
        producer: Mapping[str, Any],
        parents: Sequence[Parent],
        task: Mapping[str, Any] | None,
        metrics: Mapping[str, Any],
        licence: str | None,
    ) -> None:
        self._zoo = zoo
        self._name = require_name(name)
        self._fields = {"kind": kind, "parents": list(parents), "licence": licence}
        self._producer = dict(producer)
        self.task = dict(task) if task is not None else None
        self.metrics: dict[str, JsonValue] = dict(metrics)
        self.reasons: list[str] = []
        self.card: dict[str, list[tuple[str, str]]] = {}
        self._require_valid()
        self.path = self._scratch()
        self._open = True

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        used = sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())
        self.discard()
        if error is not None and is_full(error):  # while the files were written
            with explained(self.path, used):
                raise error

    def discard(self) -> None:
        """Remove the scratch folder; after `commit` there is none."""
        self._open = False
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # the name's folder goes with its only draft; others keep it
            self.path.parent.rmdir()

    def commit(self) -> Package:
        """Make the files the next version of the package and move the alias ``latest``.

        A rejected package is committed too, but ``latest`` does not move to it.

        Writes the model card ``README.md``; a README.md in the draft is its hand-written part.
        Among concurrent writers each gets a version of its own.

        Returns:
            The committed package.

        Raises:
            InputError: Nothing was written, or the draft is closed.
            IntegrityError: A file of a kind that is never stored, a link, damaged tensors.
            StageError: Disk full, read-only, or the store failed; nothing was committed.
        """
        self._require_ready()
        card_path = self.path / CARD_NAME
        written = card_path.read_text("utf-8") if card_path.exists() else None
        previous = self._zoo.previous_card(self._name) if written is None else None
        figures = self.path / FLATNESS_FILE
        flatness = read_model(figures, Flatness) if figures.is_file() else None
        number = 0
        for _ in range(MAX_TRIES):
            number = max(number + 1, self._zoo.next_number(self._name))
            manifest = self._manifest(version_name(number))
            with explained(self.path):
                card = write_card(manifest, written, previous, flatness, self.card)
                card_path.write_text(card, "utf-8")
            try:
                self._zoo.store.commit_new(self.path, manifest.ref, _without_files(manifest))
            except FolderExistsError:
                continue  # another writer has this version
            self._open = False
            return self._zoo.committed(self._name, manifest.version)
        raise IntegrityError(f"{self._name}: no free version after {MAX_TRIES} tries.")

    def _scratch(self) -> Path:
        local = self._zoo.store.scratch(f"{self._name}/draft")
        if local is not None:
            return local
        folder = cache_folder() / "drafts"
        with explained(folder):
            for _ in range(MAX_TRIES):
                folder.mkdir(parents=True, exist_ok=True)
                # A draft that ends at this moment takes the empty folder away in between.
                with suppress(FileNotFoundError):
                    return Path(tempfile.mkdtemp(prefix=f"{self._name}.tmp-", dir=folder))
            raise FileNotFoundError(f"{folder} vanishes as often as it is made")

    def _require_ready(self) -> None:
        if not self._open:
            raise InputError(f"this draft of {self._name!r} is closed. Open another one.")
        names = [name for name in scan(self.path) if name != MANIFEST_NAME]
        if not names:
            raise InputError(f"the draft of {self._name!r} is empty: write files into {self.path}.")
        require_allowed_names(f"draft of {self._name}", names)
        for name in names:
            if name.endswith(".safetensors"):
                require_sane_tensors(self.path / name)

    def _require_valid(self) -> None:
        """Refuse wrong metadata now, not after hours of training."""
        self._manifest(version_name(1))

    def _manifest(self, version: str) -> Manifest:
        try:
            manifest: Manifest = Manifest.model_validate(
                {
                    "name": self._name,
                    "version": version,
                    "created_at": now(),
                    "producer": complete_producer(jsonable(self._producer)),
                    "task": build_task(jsonable(self.task)),
                    "metrics": jsonable(self.metrics),
                    "status": "rejected" if self.reasons else "accepted",
                    "reasons": self.reasons,
                    "files": {},
                    **self._fields,
                }
            )
        except (ValidationError, TypeError) as error:
            text = str(error)
            if isinstance(error, ValidationError):
                text = "; ".join(str(problem) for problem in to_problems(Manifest, error))
            raise InputError(f"the package {self._name!r} cannot be described: {text}") from error
        return manifest


def complete_producer(given: dict[str, object]) -> Producer:
    """Return a producer with what the stage gave, the git revision and the library versions."""
    known: dict[str, object] = {"git_revision": git_revision(), "libraries": library_versions()}
    producer: Producer = Producer.model_validate({**known, **given})
    return producer


@functools.cache
def library_versions() -> dict[str, str]:
    """Return the installed versions of `LIBRARIES`."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an optional library
    return found


@functools.cache
def git_revision() -> str | None:
    """Return the revision of this library's checkout, with ``-dirty`` after local changes.

    None when it is installed without its repository, or without git.
    """
    source = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (source / ".git").exists():
        return None
    command = [git, "-C", str(source), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments, no shell)
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _without_files(manifest: Manifest) -> dict[str, JsonValue]:
    """Return the manifest's content; the commit fills in the files."""
    return manifest.model_dump(mode="json", exclude={"files"})
