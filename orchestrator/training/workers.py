"""What a stage's worker needs of the group it runs in.

``orchestrator.cluster.context.WorkerContext`` offers it on a cluster, and in one process without
one; the stages are written against this alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from torch import nn

from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engine import Engine

Found = TypeVar("Found")


class StoredState(Protocol):
    """A committed checkpoint: steps done, its folder, and what was kept beside it."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        ...

    @property
    def path(self) -> Path:
        """Folder for ``Engine.load``."""
        ...

    @property
    def extra(self) -> dict[str, Any]:
        """What ``commit_checkpoint`` was given."""
        ...


class WorkerGroup(Protocol):
    """One worker's view of its group; methods that say so are collective."""

    @property
    def rank(self) -> int:
        """This worker's place."""
        ...

    @property
    def world(self) -> int:
        """Number of workers."""
        ...

    @property
    def run_dir(self) -> Path:
        """The run's folder, seen by all workers."""
        ...

    def within(self, run_dir: Path) -> Self:
        """Return the same worker for the folder of another run."""
        ...

    def claimed(self) -> Self:
        """Return this worker as one of the only group that may write to the run; collective."""
        ...

    def require_claim(self) -> None:
        """Raise when a newer group has claimed the run; before anything there is changed."""
        ...

    def build_engine(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        target_weights: Mapping[str, float] | None = None,
    ) -> Engine:
        """Wrap a model in the configured engine; collective."""
        ...

    def commit_checkpoint(self, step: int, engine: Engine, extra: Mapping[str, Any]) -> Path:
        """Write and commit the full training state; collective."""
        ...

    def begin_checkpoint(
        self, step: int, engine: Engine, extra: Mapping[str, Any], keep_every: int = 0
    ) -> None:
        """Copy the full training state and commit it while training goes on; collective."""
        ...

    def settle_checkpoint(self) -> Path:
        """Wait until the checkpoint that was begun is committed; collective."""
        ...

    def latest_checkpoint(self) -> StoredState | None:
        """Return the newest intact checkpoint; collective."""
        ...

    def agree(self, value: int) -> int:
        """Return rank 0's value everywhere; collective."""
        ...

    def on_first(self, action: Callable[[], Found]) -> Found | None:
        """Do something on rank 0 while the others wait, however long it takes; collective."""
        ...

    def barrier(self) -> None:
        """Wait for every worker; collective."""
        ...

    def emit(self, event: dict[str, Any]) -> None:
        """Send an event to the driver, from rank 0."""
        ...

    def hung(self, seconds: float) -> None:
        """Say that a step has taken so long that it hangs, and end this process."""
        ...

    def should_stop(self) -> bool:
        """Whether somebody asked to stop; rank 0 alone says yes."""
        ...
