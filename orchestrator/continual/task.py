"""The task that is being learned, as the parts of the method see it.

Protected parameters are the shared ones and the heads of tasks already learned. Heads of tasks that
are being learned or still to come have no anchor, no importance and no box.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.arrays import Float32Array
from orchestrator.continual.parts.base import Anchors, LearnedTask, State
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import Stream, Unit
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.labelled_samples import ClsSamples
from orchestrator.data.steps import StepSource, eval_batches
from orchestrator.inference.protection import FISHER, stored_tensors
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import read_state
from orchestrator.modeling.transfer import to_device
from orchestrator.training.engines.engine import Batch, Engine
from orchestrator.training.engines.optimizers import target_of, trainable
from orchestrator.training.watchdog import beating

ANCHOR = "anchor"


def package_state(left: dict[str, State], weights: State) -> State:
    """Name stored tensors of the parts, and their anchors, for one file of a package.

    Args:
        left: Tensors by the name of the part's state and by parameter.
        weights: The whole model; parameters that some part knows become anchors.
    """
    known = {name for state in left.values() for name in state if name in weights}
    both = {**left, ANCHOR: {name: weights[name] for name in weights if name in known}}
    return {
        f"{what}.{name}": value for what, state in both.items() for name, value in state.items()
    }


@dataclass(frozen=True)
class UnitTask:
    """A ``parts.base.Task``: one unit of a stream on one rank.

    Attributes:
        stream: All tasks.
        stages: Results of earlier units.
        package: Folder of the package the stream started from.
        unit: The unit that is learned.
        engine: Holds the model.
        skeleton: The model's structure without weights.
    """

    stream: Stream
    stages: Stages
    package: Path
    unit: Unit
    engine: Engine
    skeleton: nn.Module

    @property
    def seed(self) -> int:
        """Seed of the job."""
        return self.stream.config.seed

    @cached_property
    def anchors(self) -> Anchors:
        """Protected weights at the end of the previous unit, or those the package protects."""
        index = self.unit.index
        left = self.stages.weights(index - 1) if index else self._inherited(ANCHOR)
        if not left and (self.stream.promised or self._inherited(FISHER)):
            left = read_state(self.package)
        names = self._without_open_heads(left, after=index - 1)
        shared = (name for name, _ in trainable(self.engine.module) if name in names)
        return Anchors.cut(self.engine, {name: left[name] for name in shared})

    @property
    def earlier_heads(self) -> frozenset[str]:
        """Heads the package came with, and those of tasks learned in this stream."""
        return frozenset(
            head.name
            for head in self.stream.heads(self.package)
            if head.name not in self._open_heads(after=self.unit.index - 1)
        )

    def left(self, name: str) -> State:
        """Return tensors that a part stored after the previous unit, or in the package."""
        if self.unit.index:
            return self.stages.left(self.unit.index - 1, name)
        return self._inherited(name)

    def protected(self, names: Iterable[str]) -> set[str]:
        """Return the names without the heads of tasks that are still to come."""
        return self._without_open_heads(names, after=self.unit.index)

    def samples(self, count: int) -> Iterator[Batch]:
        """Yield rows of the unit's tasks, equally many of each; rounded up."""
        share = -(-count // len(self.unit.tasks))
        for task in self.unit.tasks:
            yield from self.stream.singles(task, share)

    def exemplars(self, count: int, known: Collection[str | None] = ()) -> Sequence[Batch]:
        """Return rows of tasks that the package promised, equally many of each; rounded up."""
        return () if self.unit.index else self.stream.promised_singles(count, known)

    def buffers(self) -> list[StepSource]:
        """Return a source of rehearsal windows for each promised and each earlier task."""
        promised = self.stream.promised_buffers(self.engine.world)
        return promised + [
            self.stream.buffer(self.stream.titles.index(title), rows, self.engine.world)
            for earlier in range(self.unit.index)
            for title, rows in self.stages.record(earlier).buffers.items()
        ]

    def learned(self) -> Sequence[LearnedTask]:
        """Return the tasks of the unit."""
        return [
            LearnedTask(task, self.stream.titles[task], data.train, len(data.label_names))
            for task in self.unit.tasks
            for data in [self.stream.tasks[task]]
        ]

    def features(self) -> Callable[[Rows], Float32Array]:
        """Return a reader of mean token features at the current weights; collective."""
        return _FeatureReader(self.engine, self.skeleton, self.engine.gathered(), self.stream)

    def _open_heads(self, after: int) -> set[str]:
        """Titles of the tasks that are not learned after unit ``after``; -1: before the first."""
        seen = self.stages.units[after].seen if after >= 0 else ()
        return {title for index, title in enumerate(self.stream.titles) if index not in seen}

    def _without_open_heads(self, names: Iterable[str], after: int) -> set[str]:
        open_heads = self._open_heads(after)
        return {name for name in names if target_of(name) not in open_heads}

    def _inherited(self, name: str) -> State:
        return stored_tensors(self.package, name)


class _Pooled(nn.Module):
    """The mean feature of each sequence as a forward pass, for ``functional_call``."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.pool(self.model.encode(batch), batch)


@dataclass(frozen=True, slots=True)
class _FeatureReader:
    """Rows to features [N, D] of the given weights, outside the engine."""

    engine: Engine
    skeleton: nn.Module
    full: State
    stream: Stream

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Float32Array:
        device = next(self.engine.module.parameters()).device
        state = {**self.full, **dict(self.engine.module.named_buffers())}
        state = {f"model.{name}": value.to(device) for name, value in state.items()}
        model = _Pooled(self.skeleton)  # type: ignore[arg-type]
        samples = ClsSamples(rows, self.stream.processor, "unused", self.stream.max_length)
        found = []
        for batch in beating(eval_batches(samples, self.stream.config.eval_batch_size)):
            moved = to_device(batch, device)
            found.append(torch.func.functional_call(model, state, (moved,)).float().cpu().numpy())
        return np.concatenate(found)
