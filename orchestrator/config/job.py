"""Sections of every job's config, configs of verbs that need no file, and the result of a job."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from orchestrator.config.changes import PLACES, Changes
from orchestrator.config.strict import StrictModel
from orchestrator.errors import Problem, RefusedError

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
"""Names of runs, packages and aliases: safe as a folder name on every file system."""

Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]


NAMELESS = ("run", "cluster")
"""Sections that say where a job runs; they are not part of its name."""


class RunSection(StrictModel):
    """Folders of a run: its state, and the zoo that its package goes to."""

    name: Name
    """Name of the run; the same name continues where it stopped."""
    dir: str = Field("runs", min_length=1)
    """Folder that holds one folder per run: a path, or for pretrain s3://, gs:// and others."""
    zoo: str = Field("zoo", min_length=1)
    """Zoo to read packages from and commit them to: a path, s3://, gs:// or memory://."""


LABEL = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?")
"""A value of a node's label, as Ray allows them."""


class ClusterSection(StrictModel):
    """The Ray cluster of a job, and the resources it takes there."""

    address: str | None = None
    """Address of a running cluster; null takes RAY_ADDRESS, else starts Ray on this machine."""
    workers: int = Field(1, ge=1)
    """Number of worker processes."""
    cpus_per_worker: float = Field(1, ge=0)
    """CPU cores reserved for each worker."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs reserved for each worker."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that workers run on, for example {ray.io/accelerator-type: H100}; each
    must be equal: Ray's operators (``!H100``, ``in(...)``) are not taken."""
    wait_s: float = Field(1800.0, ge=0)
    """Longest wait for nodes that an autoscaler starts, and for other jobs of the cluster to end;
    what the cluster can never hold is refused at once."""
    max_failures: int = Field(3, ge=0)
    """Maximum worker failures in a row, without a new checkpoint in between, that a job recovers
    from; lost hosts are counted separately."""

    def problems(self) -> Iterable[Problem]:
        """Labels are compared for equality."""
        for name, value in self.labels.items():
            if not LABEL.fullmatch(value):
                yield Problem(
                    f"labels.{name}",
                    f"{value!r} is not the value of a label: letters, digits, '-', '_' and '.', "
                    "up to 63. Give one value.",
                )


class TrialClusterSection(ClusterSection):
    """A cluster for trials: ``workers`` is how many of them must fit at once."""

    workers_per_trial: int = Field(1, ge=1)
    """Worker processes of one trial. Each takes ``cpus_per_worker`` and ``gpus_per_worker``; they
    share the rows of each step and add their gradients."""

    @property
    def of_tasks(self) -> ClusterSection:
        """The same cluster for work that has no trials."""
        shared = self.model_dump(include=set(ClusterSection.model_fields))
        return ClusterSection.model_validate(shared)

    def problems(self) -> Iterable[Problem]:
        """A trial of several workers needs something for each of them."""
        yield from super().problems()
        if self.workers_per_trial == 1:
            return
        if not (self.cpus_per_worker or self.gpus_per_worker):
            yield Problem("workers_per_trial", "needs workers that take CPUs or GPUs. Set 1")
        if not self.gpus_per_worker.is_integer():
            yield Problem(
                "gpus_per_worker",
                f"{self.gpus_per_worker:g} with workers_per_trial {self.workers_per_trial}: "
                "workers that exchange gradients cannot share a GPU. Give each whole ones, or "
                "set workers_per_trial to 1",
            )


class ElasticClusterSection(ClusterSection):
    """A cluster whose nodes come and go: the number of workers follows, within bounds.

    ``workers: {min: 1, max: 4}`` is another way to write ``workers: 1`` and ``max_workers: 4``.
    """

    max_workers: int | None = Field(None, ge=1)
    """Grow up to this many workers when the cluster has room; null: always `workers`."""
    spare_workers: bool | None = None
    """Keep worker processes ready that have imported everything, so that a group which starts
    again need not wait for that; null: on a cluster that was connected to, not on this machine's
    own. Each takes about 0.3 GB of memory."""
    resize_interval_s: float = Field(60.0, gt=0)
    """Seconds between two checks for free resources; each resize goes back to a checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _bounds(cls, data: Any) -> Any:
        workers = data.get("workers") if isinstance(data, dict) else None
        if isinstance(workers, dict) and set(workers) == {"min", "max"}:
            return {**data, "workers": workers["min"], "max_workers": workers["max"]}
        return data

    @property
    def worker_counts(self) -> range:
        """Numbers of workers that the job may have."""
        return range(self.workers, max(self.workers, self.max_workers or 0) + 1)

    def problems(self) -> Iterable[Problem]:
        """The bounds must be in order."""
        yield from super().problems()
        if self.spare_workers and not (self.cpus_per_worker or self.gpus_per_worker):
            yield Problem("spare_workers", "true needs workers that take CPUs or GPUs. Set false")
        if self.max_workers is not None and self.max_workers < self.workers:
            yield Problem(
                "max_workers", f"{self.max_workers} is less than workers ({self.workers}). Raise it"
            )


@dataclass(frozen=True, slots=True)
class RunProgress:
    """State of a run that goes on.

    Attributes:
        status: ``status`` of its result; None: it is not finished.
        folders: Names of the folders in a folder of the run, wherever that is.
    """

    status: str | None
    folders: Callable[[str], list[str]] = lambda folder: []


class JobConfig(StrictModel):
    """The sections every job has; a stage's config adds its own."""

    remote_runs: ClassVar[bool] = False
    """Whether the stage can have its run folder on an object store."""
    changes: ClassVar[Changes] = PLACES
    """Settings that may change when a run goes on."""

    run: RunSection
    """Name and folders of the run."""
    seed: int = Field(7, ge=0, lt=2**32)
    """Seed of every random choice."""
    cluster: ClusterSection = ClusterSection()
    """The Ray cluster to run on."""

    @field_validator("run")
    @classmethod
    def _run_folder(cls, value: RunSection) -> RunSection:
        protocol = value.dir.partition("://")[0] if "://" in value.dir else "file"
        if protocol == "memory":
            raise ValueError(f"dir {value.dir!r} is seen by one process only. Use a path or s3://.")
        if protocol != "file" and not cls.remote_runs:
            raise ValueError(
                f"dir {value.dir!r} is not a local folder. This stage keeps its run folder on a "
                "local or network-mounted path; run.zoo may be an object store. Only pretrain "
                "takes an object store as run.dir."
            )
        return value

    def fixed(self, before: Mapping[str, JsonValue], progress: RunProgress) -> Iterable[Problem]:
        """Yield settings that may change in other jobs, and not in this one.

        Args:
            before: Settings that the run has, by path.
            progress: How far it is.
        """
        return ()

    def prolongs(self, before: Mapping[str, JsonValue]) -> bool:
        """Return whether a finished run goes on with these settings."""
        return False

    def way_on(self) -> str:
        """Return what to do instead of changing a setting that decides the result."""
        return "Choose another run.name, or set it back to go on with this run."


class JobResult(StrictModel):
    """The one JSON line a job prints last."""

    status: Literal["done", "checked", "interrupted", "failed", "refused"] = "done"
    """Final state of the job; refused: the package is committed, but its gate rejected it."""
    reasons: tuple[str, ...] = Field((), exclude_if=lambda reasons: not reasons)
    """Reasons of a refusal."""
    package: str | None = None
    """Reference of the committed package, like ``name/v0001``."""
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    """Figures of the run."""
    run_dir: str = ""
    """Folder of the run."""

    def accepted(self) -> Self:
        """Return this result.

        Raises:
            RefusedError: A gate refused the package.
        """
        if self.status == "refused":
            raise RefusedError(
                self.package or "the package", self.reasons, self.model_dump(mode="json")
            )
        return self


class CommandConfig(JobConfig):
    """Config of a verb that needs no file: ``orchestrator evaluate package=spam data.source=...``.

    Where ``run.name`` is not given, the run is named after its settings.
    The same command continues its run; another command gets its own folder.
    """

    verb: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _with_name(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        section = data.get("run", {})
        if not isinstance(section, Mapping) or "name" in section:
            return data
        settings = {key: value for key, value in data.items() if key not in NAMELESS}
        text = json.dumps([settings, section.get("zoo")], sort_keys=True, default=str)
        name = f"{cls.verb}-{sha256(text.encode()).hexdigest()[:12]}"
        return {**data, "run": {**section, "name": name}}
