"""Reading of a committed checkpoint: every rank verifies its share, and all agree on the outcome.

Rank 0 reads the manifest and compares names and sizes. A file of tensors is hashed by the rank that
will load it, as far as as many ranks load it as wrote it; the other files, which are small, by the
last rank. So a rank opens few files, and each file is hashed once.
"""

import errno
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from orchestrator.cluster.checkpoints.saving import on_every_rank
from orchestrator.config.messages import to_problems
from orchestrator.config.strict import StrictModel
from orchestrator.errors import InputError, IntegrityError, OrchestratorError, StageError
from orchestrator.storage import read_manifest
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.files import scan
from orchestrator.storage.json_files import json_bytes, parse_json, read_limited
from orchestrator.storage.verify import (
    check_manifest,
    require_hash,
    require_sizes,
)
from orchestrator.training.engines.fragments import PATTERN
from orchestrator.training.worker_context import Extra, WorkerContext

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
"""Version of new checkpoints: with an index of the tensors (`state_index`)."""
READ_VERSIONS = frozenset((2, SCHEMA_VERSION))
PREFIX = "step-"
EXTRA = "extra.json"
HEADER = "checkpoint"
"""Key in ``extra.json`` of a copy of the manifest's head, so that a hash covers that, too."""
UNREACHABLE = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EPERM, errno.ENOTCONN)
)
"""Values of errno that mean the storage failed; the file may be intact."""
TRIES, PAUSE_S = 3, 5.0
"""Read attempts on such storage, and the pause between them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint.

    Attributes:
        step: Optimizer steps done.
        path: Its folder, for ``Engine.load``.
        world: Number of workers that wrote it.
        extra: The caller's state as JSON data.
    """

    step: int
    path: Path
    world: int
    extra: dict[str, JsonValue]

    def has(self, field: str) -> bool:
        """Return whether the caller's state has a field; this tells kinds of state apart."""
        return field in self.extra

    def read(self, extra: type[Extra]) -> Extra:
        """Return the caller's state.

        Raises:
            InputError: It is not of this class. The hashes were right, so it is not damaged: the
                checkpoint is of another kind of run or of another version.
        """
        try:
            return extra.model_validate(self.extra)
        except ValidationError as error:
            problems = "; ".join(map(str, to_problems(extra, error)))
            raise InputError(
                f"{self.path / EXTRA} is not a {extra.__name__} of this version: {problems}. "
                "Continue with the version that wrote it, or use another run.name."
            ) from error


class _Problem(StrictModel):
    """A file that a rank could not verify, as it tells the others."""

    kind: Literal["damaged", "unreachable"]
    message: str

    def error(self) -> OrchestratorError:
        """Return what every rank raises."""
        kind = IntegrityError if self.kind == "damaged" else StageError
        return kind(self.message)


class Source:
    """A committed checkpoint in a folder that all ranks see.

    Args:
        folder: The folder, for ``Engine.load``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def listed(self) -> bytes:
        """Return the manifest.

        Raises:
            IntegrityError: It is damaged.
        """
        return json_bytes(read_manifest(self.folder))

    def manifest(self) -> bytes:
        """Return the manifest, after comparing names and sizes with what lies there.

        Raises:
            IntegrityError: They differ.
        """
        manifest = read_manifest(self.folder)
        found = scan(self.folder)
        found.pop(MANIFEST_NAME, None)
        require_sizes(self.where, manifest["files"], found)
        return json_bytes(manifest)

    def begin(self, manifest: bytes) -> None:
        """Make ready to read on this host."""

    def require(self, name: str, sha256: str) -> None:
        """Have a file on this host, and compare it with its hash.

        Raises:
            IntegrityError: It is damaged.
        """
        require_hash(self.folder / name, sha256)


def read_checkpoint(source: Source, *, verify: bool) -> Checkpoint:
    """Read a checkpoint in this process alone.

    Args:
        source: A committed checkpoint.
        verify: Compare all files with their hashes.

    Raises:
        IntegrityError: It is damaged.
        InputError: It is of a version that this one cannot read.
    """
    content = source.manifest() if verify else source.listed()
    manifest = check_manifest(parse_json(content, source.where), source.where)
    source.begin(content)
    for name, entry in manifest["files"].items():
        if verify or name == EXTRA:
            source.require(name, entry["sha256"])
    return _composed(source.folder, manifest, _extra_bytes(source.folder, manifest))


def verify_together(source: Source, group: WorkerContext) -> Checkpoint:
    """Verify and read a checkpoint, each rank a share of it; collective.

    Raises:
        IntegrityError: It is damaged; the same on every rank, names the file.
        StageError: The storage fails; the same on every rank.
        InputError: It is of a version that this one cannot read.
    """
    read = _agreed(lambda: source.manifest() if group.rank == 0 else None, source, group)
    manifest = check_manifest(parse_json(read, source.where), source.where)
    extra = _agreed(lambda: _verify_share(source, read, manifest, group), source, group)
    return _composed(source.folder, manifest, extra)


def _agreed(action: Callable[[], bytes | None], source: Source, group: WorkerContext) -> bytes:
    """Run something on every rank; return the bytes that one of them found, or raise everywhere."""
    outcome: list[bytes] = []

    def attempt() -> _Problem | None:
        try:
            found = _patiently(action, source.folder)
        except StageError as error:
            return _Problem(kind="unreachable", message=str(error))
        except IntegrityError as error:
            return _Problem(kind="damaged", message=str(error))
        outcome.extend([] if found is None else [found])
        return None

    problem = on_every_rank(attempt, group)
    told = group.first_bytes(None if problem is None else problem.model_dump_json().encode())
    if told is not None:
        raise _Problem.model_validate_json(told).error()
    agreed = group.first_bytes(outcome[0] if outcome else None)
    assert agreed is not None, "one rank returns bytes"
    return agreed


def _patiently(action: Callable[[], bytes | None], folder: Path) -> bytes | None:
    """Read; again after a while where the storage fails."""
    for tries in range(TRIES, 0, -1):
        try:
            return _read_or_explained(action, folder)
        except IntegrityError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in UNREACHABLE:
                raise
            if tries == 1:
                raise StageError(
                    f"{error} That may be the storage and not the checkpoint, so nothing was "
                    f"passed over and nothing changed. Start again when {folder.parent} can be "
                    "read; where it cannot be repaired, remove this checkpoint."
                ) from error
        time.sleep(PAUSE_S)
    raise AssertionError("unreachable")


def _read_or_explained(action: Callable[[], bytes | None], folder: Path) -> bytes | None:
    try:
        return action()
    except OSError as error:  # listing a folder raises it as it is
        raise IntegrityError(f"{folder}: cannot be read ({error.strerror or error}).") from error


def _verify_share(
    source: Source, content: bytes, manifest: Mapping[str, Any], group: WorkerContext
) -> bytes | None:
    """Hash this rank's share of the files; the last rank returns the content of ``extra.json``."""
    source.begin(content)
    files = manifest["files"]
    tensors = sorted(name for name in files if fnmatch(name, PATTERN))
    for place, name in enumerate(tensors):
        if place * group.world // len(tensors) == group.rank:
            source.require(name, files[name]["sha256"])
    if group.rank != group.world - 1:
        return None
    for name in files:
        if name not in tensors:
            source.require(name, files[name]["sha256"])
    return _extra_bytes(source.folder, manifest)


def _extra_bytes(folder: Path, manifest: Mapping[str, Any]) -> bytes:
    entry = manifest["files"].get(EXTRA)
    if entry is None:
        raise IntegrityError(f"{folder / EXTRA}: not in the manifest: the checkpoint is damaged.")
    return read_limited(folder / EXTRA, entry["bytes"])


def _composed(folder: Path, manifest: Mapping[str, Any], extra: bytes) -> Checkpoint:
    """Return a checkpoint; its manifest must say what the hashed files were sealed with.

    Raises:
        IntegrityError: It is damaged.
        InputError: It is of a version that this one cannot read. That is not damage: passed over,
            and then removed, it would be lost.
    """
    stored = parse_json(extra, folder / EXTRA)
    header = {key: value for key, value in manifest.items() if key != "files"}
    sealed = stored.get(HEADER, {})
    if header != sealed or step_of(folder.name) != header.get("step"):
        raise IntegrityError(f"{folder}: damaged: its manifest does not describe its files.")
    if header["schema_version"] not in READ_VERSIONS:
        raise InputError(
            f"{folder} has format {header['schema_version']}, this version reads "
            f"{', '.join(map(str, sorted(READ_VERSIONS)))}. Continue with the version that wrote "
            "it, or use another run.name."
        )
    return Checkpoint(header["step"], folder, header["world"], stored["extra"])


def step_of(name: str) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(name.split("-")[1])
