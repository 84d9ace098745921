"""The manifest of a package: kind, origin, task, and the hash of every file."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, JsonValue, ValidationError, field_validator

from orchestrator.config import Name, StrictModel
from orchestrator.config.messages import to_problems
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage.files import unsafe_reason
from orchestrator.storage.json_files import parse_json, parse_model

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 * 2**20

Kind = Literal["pretrained", "imported", "finetuned", "continual", "quantized"]
Status = Literal["accepted", "rejected"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^v\d{4,9}$")]


class FileEntry(StrictModel):
    """One file of a package."""

    sha256: Sha256
    """SHA-256 of the content, hexadecimal."""
    bytes: int = Field(ge=0)
    """Size of the file."""


class Parent(StrictModel):
    """A package this one was made from."""

    name: Name
    """Name of the parent."""
    version: Version
    """Version of the parent."""
    manifest_sha256: Sha256
    """SHA-256 of the parent's manifest at that time."""

    @property
    def ref(self) -> str:
        """Reference of the parent, like ``name/v0001``."""
        return f"{self.name}/{self.version}"


class Producer(StrictModel):
    """Producer of a package; further keys that a stage gives are kept."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    stage: str = ""
    """Stage, like ``pretrain``."""
    job: str | None = None
    """Name of the run or of the submitted job."""
    git_revision: str | None = None
    """Revision of this library's source, when it is a checkout."""
    libraries: dict[str, str] = Field(default_factory=dict)
    """Versions of the libraries that matter."""

    @property
    def run_id(self) -> str | None:
        """`RunFolder.package_id` of the run that committed the package, if a run did.

        ``select`` wrote it under the key ``selection`` before all stages shared one protocol.
        """
        extra = self.model_extra or {}
        found = extra.get("run_id", extra.get("selection"))
        return found if isinstance(found, str) else None


class Task(StrictModel):
    """Inputs and outputs of a package; further keys that a stage gives are kept."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    kind: str
    """Like ``mlm``, ``lm``, ``classification``."""
    modality: str = "text"
    """``text``, ``vision`` or ``audio``."""
    labels: dict[str, list[str]] = Field(default_factory=dict)
    """Label names of each target, by target name."""
    default: str | None = None
    """Target that answers where none is named: the one that the package was made for."""
    max_length: int | None = Field(None, ge=1)
    """Longest input, in tokens."""


class Manifest(StrictModel):
    """The content of ``manifest.json``."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: Name
    """Name of the package."""
    version: Version
    """Version of the package."""
    kind: Kind
    """Kind of stage that made the package."""
    status: Status = "accepted"
    """Whether the promotion gate accepted it; no alias points to a rejected package."""
    reasons: list[str] = Field(default_factory=list)
    """Reasons of the rejection."""
    created_at: AwareDatetime
    """Time of the commit, UTC. Never decides which version is newer."""
    producer: Producer = Producer()
    """Job and code that made it."""
    parents: list[Parent] = Field(default_factory=list)
    """Packages that it was made from."""
    task: Task | None = None
    """Its inputs and outputs."""
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    """Summary figures."""
    licence: str | None = None
    """SPDX identifier of the license."""
    files: dict[str, FileEntry]
    """Every file except the manifest, by its path in the package."""

    @field_validator("files")
    @classmethod
    def _safe_names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            reason = unsafe_reason(name)
            if reason is not None:
                raise ValueError(f"the file name {name[:200]!r} is refused: {reason}.")
        if MANIFEST_NAME in files:
            raise ValueError(f"{MANIFEST_NAME} cannot list itself.")
        return files

    @property
    def ref(self) -> str:
        """Reference of the package, like ``name/v0001``."""
        return f"{self.name}/{self.version}"

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(entry.bytes for entry in self.files.values())


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse the bytes of a manifest.

    Args:
        data: Content of ``manifest.json``.
        where: What messages call it.

    Raises:
        IntegrityError: Damaged, of an unknown schema version, or with unsafe names.
    """
    content = parse_json(data, where)
    if not isinstance(content, dict):
        raise IntegrityError(f"{where}: damaged: it is not a mapping.")
    written = content.get("schema_version")
    if written != SCHEMA_VERSION:
        allowed = f"this version of orchestrator reads {SCHEMA_VERSION}"
        raise IntegrityError(f"{where}: schema_version is {written!r}; {allowed}. Update it.")
    return parse_model(content, Manifest, where)


def build_task(task: dict[str, JsonValue] | None) -> Task | None:
    """Return the task of a manifest from plain data.

    Raises:
        InputError: It lacks ``kind`` or a value is of the wrong kind.
    """
    if task is None:
        return None
    try:
        built: Task = Task.model_validate(task)
    except ValidationError as error:
        problems = "; ".join(str(problem) for problem in to_problems(Task, error))
        raise InputError(f"the package's task is not valid: {problems}") from error
    return built


def now() -> datetime:
    """Return the time now, UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
