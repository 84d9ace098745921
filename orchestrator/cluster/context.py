"""The worker context of a launch; the same without a cluster, in one process.

``Worker.alone(run_dir)`` runs a stage's worker function in this process.
"""

import faulthandler
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, distributed, nn

from orchestrator.cluster.checkpoints.reading import Checkpoint
from orchestrator.cluster.checkpoints.remote import checkpoints_of
from orchestrator.cluster.checkpoints.saving import Pending, on_rank_zero
from orchestrator.cluster.checkpoints.store import CHECKPOINTS, CheckpointFolder
from orchestrator.cluster.engines import build_engine
from orchestrator.cluster.observe.mailbox import Line, SilentLine
from orchestrator.config.strict import StrictModel
from orchestrator.modeling.initialization import Materialization, Values
from orchestrator.storage.claims import Claim
from orchestrator.storage.remote.mirror import Mirror
from orchestrator.storage.stores import Store, open_store
from orchestrator.storage.uris import local_path
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import Engine
from orchestrator.training.events import Event, StepHung, StoreSlow
from orchestrator.training.worker_context import Beside, Found, StoredState

logger = logging.getLogger(__name__)

HUNG = 70
"""Exit code of a worker that ends itself because a step hangs."""
LAST_EVENT_TIMEOUT_S = 1.0
"""Grace period for delivering the last event."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of a launch: a :class:`~orchestrator.training.worker_context.WorkerContext`.

    Attributes:
        rank: This worker's place among ``world``.
        world: Number of workers.
        run_dir: The run's folder, on storage that every worker sees; or this host's staging
            folder of a run on an object store.
        device: Where this worker computes.
        line: Connection to the driver.
        beside: Starts work beside the workers; None: without a cluster.
        mirror: The run on an object store; None: every worker sees its folder.
    """

    rank: int
    world: int
    run_dir: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    line: Line = field(default_factory=SilentLine)
    beside: Beside | None = None
    mirror: Mirror | None = None
    _pending: list[Pending] = field(default_factory=list, repr=False)
    _claim: Claim | None = field(default=None, repr=False)

    @classmethod
    def alone(cls, run_dir: Path) -> Self:
        """Return a context for one process without a cluster."""
        return cls(rank=0, world=1, run_dir=run_dir)

    def within(self, run_dir: str | Path) -> Self:
        """Return this worker for the folder of another run of the same launch, or in this one.

        Args:
            run_dir: A path, or an address on an object store.
        """
        folder = local_path(run_dir)
        if folder is None:
            mirror = Mirror.of(str(run_dir), self._say)
            return replace(self, run_dir=mirror.folder, mirror=mirror)
        if self.mirror is None or not folder.is_relative_to(self.mirror.folder):
            return replace(self, run_dir=folder, mirror=None)
        inner = self.mirror.within(folder.relative_to(self.mirror.folder).as_posix())
        return replace(self, run_dir=folder, mirror=inner)

    def _say(self, text: str) -> None:
        logger.warning(text)
        self.emit(StoreSlow(message=text))

    def publish(self, name: str) -> None:
        """Copy a committed folder of a run on an object store there; on one rank.

        Raises:
            StageError: The store failed for too long; names what was not copied.
        """
        if self.mirror is not None:
            self.mirror.push_folder(name)

    def fetch(self, name: str) -> None:
        """Copy a committed folder of a run on an object store to this host, if there is one.

        Raises:
            IntegrityError: A file is damaged.
            StageError: The store failed for too long, or the disk is full.
        """
        if self.mirror is not None:
            self.mirror.pull_folder(name)

    def claimed(self, lease: int = 0) -> Self:
        """Return this worker as one of the only group that may write to the run; collective.

        What an older group still does there fails from now on (``storage.claims``). Call it before
        anything is read. Folders that the result is taken :meth:`within` belong to the claim.

        Args:
            lease: Number of the driver's lease on a run on an object store.

        Raises:
            StageError: The folder cannot be written, or another driver has the run.
        """
        store = self.store
        number = Claim.take(store, lease).number if self.rank == 0 else 0
        return replace(self, _claim=Claim(store, self.broadcast_from_rank_zero(number)))

    def require_claim(self) -> None:
        """Raise when a newer group has claimed the run; before anything there is changed.

        Raises:
            FencedError: It has.
        """
        if self._claim is not None:
            self._claim.require()

    def build_engine(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        target_weights: Mapping[str, float] | None = None,
        values: Values | None = None,
    ) -> Engine:
        """Put the model on this worker's device and wrap it in the configured engine; collective.

        Args:
            model: Built the same way on every rank.
            optimizer: The optimizer's settings.
            engine: Which engine; ``auto`` is single on one worker and DDP on more.
            target_weights: Weight of each target in the objective; 1 where not given.
            values: What the parameters begin as, for a model on the meta device.

        Raises:
            InputError: The engine cannot run with this many workers.
            StageError: The installed DeepSpeed does not behave as the engine needs.
        """
        return build_engine(
            model.to(self.device) if values is None else model,
            optimizer,
            engine,
            target_weights,
            world=self.world,
            missing=None if values is None else Materialization(values, self.device),
        )

    def emit(self, event: Event) -> None:
        """Send an event to the driver; only rank 0's are sent, and sending never waits."""
        if self.rank == 0:
            self.line.post(event)

    def hung(self, phase: str, seconds: float) -> None:
        """Show where all threads are and end this process, so that the group is started again.

        Nothing milder helps: the main thread waits in a collective that cannot be cancelled.
        """
        message = (
            f"rank {self.rank}: {phase} has made no progress for {seconds:.0f} s and is treated as "
            "hung. If this job does need so long, raise train.hang_timeout_s and start it again"
        )
        logger.error("%s; all threads follow", message)
        faulthandler.dump_traceback()
        self.line.post(StepHung(rank=self.rank, message=message))
        time.sleep(LAST_EVENT_TIMEOUT_S)
        os._exit(HUNG)  # the main thread hangs in a kernel or a collective: no exception reaches it

    def should_stop(self) -> bool:
        """Return whether the driver asked to stop.

        Only rank 0 ever says yes: the training loop turns one rank's yes into everybody's.
        """
        return self.rank == 0 and self.line.stop_requested()

    @property
    def store(self) -> Store:
        """The run's storage, which all workers share."""
        return open_store(self.run_dir) if self.mirror is None else self.mirror.store

    def commit_checkpoint(
        self,
        step: int,
        engine: Engine,
        extra: StrictModel,
        before_commit: Callable[[], None] | None = None,
    ) -> Path:
        """Write the full training state and commit it atomically; collective.

        Args:
            step: Optimizer steps done.
            engine: What to save.
            extra: State of the caller; rank 0's is stored.
            before_commit: See :meth:`begin_checkpoint`.

        Returns:
            The committed folder. Older checkpoints beyond the last two are removed.
        """
        self.begin_checkpoint(step, engine, extra, before_commit=before_commit)
        return self.settle_checkpoint()

    def begin_checkpoint(
        self,
        step: int,
        engine: Engine,
        extra: StrictModel,
        keep_every: int = 0,
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        """Copy the training state and commit it while training goes on; collective.

        Waits for the checkpoint before it. The last one of a run must be settled.

        Args:
            step: Optimizer steps done.
            engine: What to save.
            extra: State of the caller; rank 0's is stored.
            keep_every: Checkpoints of multiples of this step are never removed; 0: all are.
            before_commit: Stores what ``extra`` refers to; called on rank 0 from another thread,
                and again where there was no space.

        Raises:
            StageError: The checkpoint before it could not be written; older ones are intact.
        """
        self.settle_checkpoint()

        def committed() -> None:
            self.line.progressed(str(self.run_dir), step)

        pending = self.checkpoints.begin(
            step, engine, extra, self, committed, keep_every, before_commit
        )
        self._pending.append(pending)

    def settle_checkpoint(self) -> Path:
        """Wait until the checkpoint that was begun is committed; collective.

        Returns:
            Its folder; the folder of checkpoints if none was begun.

        Raises:
            StageError: Some rank could not write it; older ones are intact.
        """
        if not self._pending:
            return self.run_dir / CHECKPOINTS
        pending = self._pending.pop()
        pending.settle(self)
        return pending.final

    def latest_checkpoint(
        self, require: Callable[[StoredState], None] | None = None
    ) -> Checkpoint | None:
        """Return the newest checkpoint whose files are all intact, or None; collective.

        Damaged ones are passed over with a warning in the log and an event to the driver.

        Args:
            require: Verifies what a checkpoint needs beside its own files; collective.
        """
        if require is None:
            return self.checkpoints.latest(self)
        return self.checkpoints.latest(self, require)

    @property
    def checkpoints(self) -> CheckpointFolder:
        """The run's checkpoints."""
        group = 0 if self._claim is None else self._claim.number
        return checkpoints_of(self.run_dir, self.mirror, group)

    def on_rank_zero(self, action: Callable[[], Found]) -> Found | None:
        """Run something on rank 0 while the others wait, however long it takes; collective.

        Returns:
            What it returned, on rank 0; None on the others.

        Raises:
            Exception: Whatever it raised, on rank 0 alone.
        """
        return on_rank_zero(action, self)

    def barrier(self) -> None:
        """Wait for every worker; collective."""
        self.broadcast_from_rank_zero(0)

    def broadcast_from_rank_zero(self, value: int) -> int:
        """Return rank 0's ``value`` on every rank; collective.

        Args:
            value: 64-bit integer; only rank 0's counts.
        """
        if self.world == 1:
            return value
        tensor: Tensor = torch.tensor([value], dtype=torch.int64, device=self.device)
        distributed.broadcast(tensor, src=0)
        return int(tensor.item())

    def first_bytes(self, data: bytes | None) -> bytes | None:
        """Return the bytes of the lowest rank that passes some, on every rank; collective."""
        if self.world == 1:
            return data
        speaker = torch.tensor([self.world if data is None else self.rank], device=self.device)
        distributed.all_reduce(speaker, distributed.ReduceOp.MIN)
        source = int(speaker.item())
        if source == self.world:
            return None
        size = torch.tensor([len(data or b"")], device=self.device)
        distributed.broadcast(size, src=source)
        content = torch.zeros(int(size.item()), dtype=torch.uint8, device=self.device)
        if self.rank == source:
            content.copy_(torch.frombuffer(bytearray(data or b""), dtype=torch.uint8))
        distributed.broadcast(content, src=source)
        return bytes(content.cpu().numpy())

    def all_ranks(self, succeeded: bool) -> bool:
        """Return whether every rank passes True; collective."""
        if self.world == 1:
            return succeeded
        # The sum of the failures is 0 exactly if nobody failed, with any number of ranks.
        tensor = torch.tensor([float(not succeeded)], device=self.device)
        distributed.all_reduce(tensor)
        return not tensor.item()
