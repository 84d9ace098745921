"""A worker's view of its group: rank, engines, checkpoints, a line to the driver.

Stages are written against :class:`WorkerContext` alone and import neither Ray nor DeepSpeed.
``orchestrator.cluster.context.Worker`` implements it, on a cluster and in one process without one.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import nn

from orchestrator.config import ClusterSection, StrictModel
from orchestrator.errors import InputError, IntegrityError, StageError
from orchestrator.modeling.initialization import Values
from orchestrator.storage import read_model, verify_folder
from orchestrator.storage.claims import FencedError
from orchestrator.storage.json_files import parse_json, parse_model
from orchestrator.storage.stores import Store
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import Engine
from orchestrator.training.events import CheckpointDamaged, Event

Found = TypeVar("Found")
Extra = TypeVar("Extra", bound=StrictModel)
SHARED_ERRORS = {kind.__name__: kind for kind in (IntegrityError, InputError, FencedError)}
"""Errors of rank 0 that keep their kind on the other ranks."""


class StoredState(Protocol):
    """A committed checkpoint: steps done, its folder, and the caller's state stored beside it."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        ...

    @property
    def path(self) -> Path:
        """Folder for ``Engine.load``."""
        ...

    @property
    def world(self) -> int:
        """Number of workers that wrote it."""
        ...

    def has(self, field: str) -> bool:
        """Return whether the caller's state has a field; this tells kinds of state apart."""
        ...

    def read(self, extra: type[Extra]) -> Extra:
        """Return the caller's state that ``commit_checkpoint`` was given.

        Raises:
            InputError: It is not of this class; says which fields differ.
        """
        ...


class Errand(Protocol):
    """Work that was started beside the workers."""

    def ended(self, wait_s: float = 0.0) -> bool:
        """Return whether it ended, at the latest after a time."""
        ...

    def result(self, kind: type[Extra]) -> Extra:
        """Return what it returned; waits for it.

        Raises:
            StageError: It failed, or its process was lost.
        """
        ...

    def cancel(self) -> None:
        """End it."""
        ...


class Beside(Protocol):
    """Resources of the cluster that no worker has."""

    def has_place(self, cluster: ClusterSection) -> bool:
        """Return whether what one more worker takes is free."""
        ...

    def start(self, function: str, payload: StrictModel, cluster: ClusterSection) -> Errand:
        """Start ``module:function`` of one payload with the resources of one worker."""
        ...


class WorkerContext(Protocol):
    """One worker of a group; methods that say so are collective."""

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""
        ...

    @property
    def world(self) -> int:
        """Number of workers."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of this worker."""
        ...

    @property
    def run_dir(self) -> Path:
        """The run's folder, on storage that all workers share."""
        ...

    @property
    def store(self) -> Store:
        """The run's storage, which all workers share."""
        ...

    @property
    def beside(self) -> Beside | None:
        """Starts work beside the workers; None: without a cluster."""
        ...

    def within(self, run_dir: str | Path) -> Self:
        """Return the same worker for the folder of another run, or its address on a store."""
        ...

    def publish(self, name: str) -> None:
        """Copy a committed folder of a run at an address there; on one rank."""
        ...

    def fetch(self, name: str) -> None:
        """Copy a committed folder of a run at an address to this host."""
        ...

    def claimed(self, lease: int = 0) -> Self:
        """Return this worker with its group's exclusive right to write to the run; collective."""
        ...

    def require_claim(self) -> None:
        """Raise if a newer group has claimed the run; call it before changing anything there."""
        ...

    def build_engine(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        target_weights: Mapping[str, float] | None = None,
        values: Values | None = None,
    ) -> Engine:
        """Wrap a model, or one on the meta device and its `values`, in an engine; collective."""
        ...

    def commit_checkpoint(
        self,
        step: int,
        engine: Engine,
        extra: StrictModel,
        before_commit: Callable[[], None] | None = None,
    ) -> Path:
        """Write and commit the full training state; collective."""
        ...

    def begin_checkpoint(
        self,
        step: int,
        engine: Engine,
        extra: StrictModel,
        keep_every: int = 0,
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        """Copy the full training state and commit it while training goes on; collective."""
        ...

    def settle_checkpoint(self) -> Path:
        """Wait until the checkpoint that was begun is committed; collective."""
        ...

    def latest_checkpoint(
        self, require: Callable[[StoredState], None] | None = None
    ) -> StoredState | None:
        """Return the newest intact checkpoint; collective.

        Args:
            require: Verifies what a checkpoint needs beside its own files; collective. It raises
                IntegrityError on every rank where that is damaged; the one before is taken then.
        """
        ...

    def broadcast_from_rank_zero(self, value: int) -> int:
        """Return rank 0's 64-bit integer on every rank; collective."""
        ...

    def first_bytes(self, data: bytes | None) -> bytes | None:
        """Return the bytes of the lowest rank that passes some, on every rank; collective."""
        ...

    def all_ranks(self, succeeded: bool) -> bool:
        """Return whether every rank passes True; collective."""
        ...

    def on_rank_zero(self, action: Callable[[], Found]) -> Found | None:
        """Run something on rank 0 while the others wait, however long it takes; collective."""
        ...

    def barrier(self) -> None:
        """Wait for every worker; collective."""
        ...

    def emit(self, event: Event) -> None:
        """Send an event to the driver, from rank 0; may be called from any thread."""
        ...

    def hung(self, phase: str, seconds: float) -> None:
        """Report that a phase hangs, and end this process."""
        ...

    def should_stop(self) -> bool:
        """Return whether the driver asked to stop; rank 0 alone answers True."""
        ...


class Peers(Protocol):
    """Ranks 1 and more of a group whose rank 0 is this process."""

    def start(self, follower: str) -> WorkerContext:
        """Start them, unless they run, and return this process's view of the group.

        Args:
            follower: ``module:Class`` of what each of them makes of its own `WorkerContext`.
        """
        ...

    def doing(self, method: str, *arguments: str | float | None) -> AbstractContextManager[None]:
        """Call a method of each follower while this process does its own part in the block.

        When the block ends, they have ended as well. A failure on any rank ends the peers; they
        are started again when they are next asked for.

        Raises:
            Exception: What the block or a follower raised.
            RuntimeError: A peer was lost, or does not answer.
        """
        ...


def reserved_device(gpus: float) -> torch.device:
    """Return the GPU where one is reserved for this process, else the CPU.

    Args:
        gpus: ``cluster.gpus_per_worker``; Ray shows a process only the GPUs reserved for it.

    Raises:
        InputError: A GPU is asked for and torch finds none.
    """
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            f"cluster.gpus_per_worker is {gpus:g}, but torch finds no GPU on this machine. Set it "
            "to 0 to train on the CPU, or install the driver and a build of torch with CUDA."
        )
    return torch.device("cuda", torch.cuda.current_device())


def finished_run(
    context: WorkerContext, folder: str, summary: str, kind: type[Extra]
) -> Extra | None:
    """Return the summary of a run whose export is whole, else None; collective.

    A damaged export is reported, and made again by the caller.

    Args:
        context: This worker.
        folder: Name of the export folder in the run's folder.
        summary: Name of the summary in it.
        kind: Class that reads the summary.
    """
    place = context.run_dir / folder

    def stored() -> bytes | None:
        try:
            context.fetch(folder)
            if place.is_dir():
                verify_folder(place)
                read_model(place / summary, kind)
                return (place / summary).read_bytes()
        except IntegrityError as error:
            context.emit(CheckpointDamaged(message=str(error)))
        return None

    # Hashing takes a while: rank 0 alone does it, and the others believe it.
    found = from_rank_zero(context, stored)
    return None if found is None else parse_model(parse_json(found, place), kind, str(place))


def from_rank_zero(context: WorkerContext, read: Callable[[], bytes | None]) -> bytes | None:
    """Return what rank 0 reads, on every rank; an error there is raised on all of them; collective.

    Raised on rank 0 alone, it would leave the others in their next collective.

    Raises:
        IntegrityError, InputError, FencedError: Rank 0 raised it.
        StageError: Rank 0 raised another error, on the other ranks.
    """
    failed: list[Exception] = []

    def attempt() -> bytes | None:
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - of any kind; raised on every rank below
            failed.append(error)
        return None

    content = context.on_rank_zero(attempt)
    told = context.first_bytes(
        f"{type(failed[0]).__name__}\n{failed[0]}".encode() if failed else None
    )
    if failed:
        raise failed[0]
    if told is not None:
        kind, _, message = told.decode().partition("\n")
        raise SHARED_ERRORS.get(kind, StageError)(message)
    return context.first_bytes(content)
