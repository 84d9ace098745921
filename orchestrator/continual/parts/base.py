"""The hooks of a part, and the view it gets of the task that is being learned.

A part is built anew for every task. During one task its hooks run in this order::

    before_task                         at the weights the previous task left
    load_state                          when the task continues from a checkpoint
    per step:
        extra, gradient, projection, shard_sums     in the step and in every rehearsal update
        after_step                                  once the step is complete
    state                               at every checkpoint
    after_task                          at the final weights

All hooks are collective: every rank calls them in the same order.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from orchestrator.arrays import Float32Array
from orchestrator.continual.parts.configs import PartConfig
from orchestrator.data.rows.rows import Rows
from orchestrator.training.engines.engine import Batch, Engine, Projection, part_of
from orchestrator.training.events import Metrics
from orchestrator.training.loop import WindowSource
from orchestrator.training.metrics import StepMetrics
from orchestrator.training.objective import ExtraLoss

State = dict[str, Tensor]
"""Full tensors by name, the same on every rank and independent of any engine's layout."""
ShardSums = dict[str, tuple[float] | tuple[float, float]]
"""Metric name → ``(sum,)`` or ``(sum, count)`` over this rank's shards. The metric is the total
over all shards, divided by the total count (at least 1) where there is one."""
PartConfigT = TypeVar("PartConfigT", bound=PartConfig)


@dataclass(frozen=True, slots=True)
class Anchors:
    """Weights ``m`` at the end of the previous task.

    Parameters that did not exist then (a new head) have no anchor.

    Attributes:
        names: Parameters with an anchor; the same on every rank, also where it holds no shard.
        weights: This rank's shard of each, [n].
    """

    names: frozenset[str] = frozenset()
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def cut(cls, engine: Engine, full: Mapping[str, Tensor]) -> "Anchors":
        """Take this rank's part of full anchors by parameter name; no communication."""
        return cls(frozenset(full), cut(engine, full))

    def __bool__(self) -> bool:
        return bool(self.names)


def cut(engine: Engine, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy this rank's part [n] of full tensors by parameter name; no communication."""
    return {
        shard.name: part_of(full, shard).to(shard.master, copy=True)
        for shard in engine.shards()
        if shard.name in full
    }


@dataclass(frozen=True, slots=True)
class LearnedTask:
    """One task that was trained.

    Attributes:
        index: Place in the stream.
        title: Name of the task and of its head.
        train: Its training rows; parts never see validation or test rows.
        classes: Number of its classes.
    """

    index: int
    title: str
    train: Rows
    classes: int


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Data that a part stores of a task for later ones.

    Attributes:
        tensors: Full tensors, returned by ``Task.left`` in the next task, and by the committed
            package in the next stream.
        rows: Indices of training rows to rehearse, by task title.
    """

    tensors: State | None = None
    rows: dict[str, list[int]] = field(default_factory=dict)


class Task(Protocol):
    """The task that is being learned, as parts see it."""

    @property
    def engine(self) -> Engine:
        """Holds the model."""
        ...

    @property
    def skeleton(self) -> nn.Module:
        """The model without weights, for ``torch.func.functional_call`` outside the engine."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the job."""
        ...

    @property
    def anchors(self) -> Anchors:
        """Protected weights at the end of the previous task; the parts share one copy."""
        ...

    @property
    def earlier_heads(self) -> frozenset[str]:
        """Heads of tasks that were learned before this one."""
        ...

    def left(self, name: str) -> State:
        """Return the tensors that a part stored under a name before this task; {} without any."""
        ...

    def protected(self, names: Iterable[str]) -> set[str]:
        """Return those parameters that later tasks must not change freely.

        All but the heads of tasks that are still to come.
        """
        ...

    def samples(self, count: int) -> Iterable[Batch]:
        """Yield about ``count`` random training rows of this task, one per batch.

        The same rows on every rank.
        """
        ...

    def exemplars(self, count: int, known: Collection[str | None] = ()) -> Sequence[Batch]:
        """Return about ``count`` rows of tasks that the starting package promised, one per batch.

        Empty where the stream learns all of them, or the package keeps no rows, and after the first
        task. The same rows on every rank.

        Args:
            count: Number of rows, rounded up to equally many of each task.
            known: Heads to leave out.
        """
        ...

    def buffers(self) -> Sequence[WindowSource]:
        """Return a source of windows for each earlier task with rows to rehearse."""
        ...

    def learned(self) -> Sequence[LearnedTask]:
        """Return the tasks that were trained (several in joint training)."""
        ...

    def features(self) -> Callable[[Rows], Float32Array]:
        """Return a function from N rows to their features [N, D] at the current weights."""
        ...


class Part(Generic[PartConfigT]):
    """One part of a method. Every hook does nothing unless a subclass overrides it.

    Attributes:
        config: The part's options.
    """

    def __init__(self, config: PartConfigT) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """Registered name."""
        return self.config.type_name()

    @property
    def left_name(self) -> str:
        """Name under which the tensors of ``after_task`` are stored."""
        return self.name

    def before_task(self, task: Task) -> None:
        """Prepare for a task; the engine is at the weights the previous task left.

        Work that takes minutes, here and in `after_task`, calls `training.watchdog.beat` on its
        way: without progress for ten minutes a worker counts as hung.
        """

    def extra(self) -> Sequence[ExtraLoss]:
        """Return additional loss terms of one update: distillation, replayed logits."""
        return ()

    def gradient(self, engine: Engine, compute: Callable[[], StepMetrics]) -> StepMetrics:
        """Leave the gradient of one update in the engine's shards.

        Parts wrap one another in their order: ``compute`` runs the parts before this one and, in
        the end, the forward and backward pass of the window. It may be called more than once.

        Returns:
            The metrics of ``compute``, and own ones.
        """
        del engine
        return compute()

    def projection(self) -> Projection | None:
        """Return a change of the masters after the optimizer's update, for one update."""
        return None

    def shard_sums(self) -> ShardSums:
        """Return metrics of the last update; the same names on every rank."""
        return {}

    def after_step(
        self, engine: Engine, done: int, update: Callable[[Sequence[Batch]], StepMetrics]
    ) -> Metrics:
        """Act after a step.

        Args:
            engine: At the new weights.
            done: Steps of this task that are complete.
            update: Takes one more optimizer step, with all parts, on another window.

        Returns:
            Metrics of the step.
        """
        del engine, done, update
        return {}

    def after_task(self, task: Task) -> Leftovers:
        """Return data for later tasks; the engine is at the final weights."""
        del task
        return Leftovers()

    def state(self, engine: Engine) -> State:
        """Return the per-step state for a checkpoint; ``fisher.assembled`` makes shards whole."""
        del engine
        return {}

    def load_state(self, engine: Engine, state: State) -> None:
        """Continue from a state of :meth:`state`; ``cut`` takes this rank's shards."""


def total_metrics(engine: Engine, parts: Sequence[Part[Any]]) -> Metrics:
    """Reduce the ``shard_sums`` of all parts in one collective; none without any."""
    sums = {name: pair for part in parts for name, pair in part.shard_sums().items()}
    if not sums:
        return {}
    local = torch.tensor([number for pair in sums.values() for number in pair], dtype=torch.float64)
    totals = iter(engine.sum_over_shards(local).tolist())
    return {
        name: next(totals) / (max(1.0, next(totals)) if len(pair) > 1 else 1.0)
        for name, pair in sums.items()
    }
