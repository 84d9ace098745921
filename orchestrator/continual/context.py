"""What a worker of this stage needs from the cluster, which this room must not import.

``orchestrator.cluster.context.WorkerContext`` is one; tests use one without a cluster.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engine import Engine


class Checkpoint(Protocol):
    """A committed training state."""

    @property
    def path(self) -> Path:
        """Folder for ``Engine.load``."""
        ...

    @property
    def extra(self) -> dict[str, Any]:
        """What was stored beside it."""
        ...


class Context(Protocol):
    """What the cluster gives a worker (``orchestrator.cluster.context.WorkerContext``)."""

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
        """Folder that all workers share."""
        ...

    def build_engine(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        target_weights: Mapping[str, float] | None = None,
    ) -> Engine:
        """Wrap a model; collective."""
        ...

    def emit(self, event: dict[str, Any]) -> None:
        """Tell the driver."""
        ...

    def should_stop(self) -> bool:
        """Whether the driver asked to stop."""
        ...

    def commit_checkpoint(self, step: int, engine: Engine, extra: Mapping[str, Any]) -> Path:
        """Save the training state; collective."""
        ...

    def latest_checkpoint(self) -> Checkpoint | None:
        """Newest intact training state; collective."""
        ...

    def agree(self, value: int) -> int:
        """Rank 0's value on every rank; collective."""
        ...

    def barrier(self) -> None:
        """Wait for every worker; collective."""
        ...
