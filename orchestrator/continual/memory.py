"""What earlier tasks left behind, as the next unit needs it; and what a unit will leave.

Protected parameters are the shared ones and the heads of tasks already learned. Heads of tasks that
are being learned or still to come have no anchor, no importance and no box.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from orchestrator.arrays import Float32Array
from orchestrator.continual.constraints import Anchors
from orchestrator.continual.find import accumulate, gathered_fisher, normalised, sharded_fisher
from orchestrator.continual.replay import choose_rows
from orchestrator.continual.stages import Stages, State
from orchestrator.continual.stream import Stream, Unit
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.labelled_samples import ClsSamples
from orchestrator.data.steps import StepSource, eval_batches
from orchestrator.modeling.model import Model
from orchestrator.training.engine import Batch, Engine
from orchestrator.training.optimizers import target_of, trainable
from orchestrator.training.seeding import derive_seed

STATE_FILE = "state/continual.safetensors"
"""Importance and anchors inside a package of kind ``continual``."""
IMPORTANCE, ANCHOR = "importance.", "anchor."


def package_state(importance: State, weights: State) -> State:
    """Name importance and anchors for one file of a package."""
    anchors = {name: weights[name] for name in importance}
    return {f"{IMPORTANCE}{name}": value for name, value in importance.items()} | {
        f"{ANCHOR}{name}": value for name, value in anchors.items()
    }


@dataclass(frozen=True, slots=True)
class Memory:
    """Reads what is left of earlier units, and of the package when it was made by a stream."""

    stream: Stream
    stages: Stages
    package: Path

    def importance(self, unit: Unit) -> State:
        """Accumulated importance before a unit; empty where none was measured."""
        if unit.index:
            return self.stages.importance(unit.index - 1) or {}
        return self._inherited(IMPORTANCE)

    def anchors(self, engine: Engine, unit: Unit) -> Anchors:
        """Cut the anchors of a unit to this rank's shards; empty when nothing is protected."""
        method = self.stream.config.method
        if not (method.uses("find") or method.uses("clamp")):
            return Anchors()
        left = self.stages.weights(unit.index - 1) if unit.index else self._inherited(ANCHOR)
        names = self._protected(left, after=unit.index - 1)
        weights = {name: left[name] for name, _ in trainable(engine.module) if name in names}
        known = self.importance(unit)
        found = {n: known.get(n, torch.zeros_like(value)) for n, value in weights.items()}
        return Anchors.cut(engine, weights, found)

    def buffers(self, unit: Unit, world: int) -> list[StepSource]:
        """Return a source of rehearsal windows for each earlier task."""
        if not self.stream.config.method.uses("replay"):
            return []
        return [
            self.stream.buffer(self.stream.titles.index(title), rows, world)
            for earlier in range(unit.index)
            for title, rows in self.stages.record(earlier)["buffers"].items()
        ]

    def new_importance(self, engine: Engine, skeleton: nn.Module, unit: Unit) -> State | None:
        """Measure a unit's importance and add it to what there was; collective."""
        find = self.stream.config.method.find
        if not self.stream.config.method.uses("find"):
            return None
        samples = self._fisher_samples(unit)
        if find.way == "gathered":
            measured = gathered_fisher(engine, skeleton, samples)
        else:
            measured = sharded_fisher(engine, samples)
        names = self._protected(measured, after=unit.index)
        measured = {name: value for name, value in measured.items() if name in names}
        if find.normalise:
            measured = normalised(measured)
        return accumulate(self.importance(unit), measured, find.gamma)

    def choose(self, engine: Engine, skeleton: nn.Module, unit: Unit) -> dict[str, list[int]]:
        """Choose the rows of a unit's tasks to rehearse later; collective."""
        method = self.stream.config.method
        if not method.uses("replay"):
            return {}
        full = engine.gathered() if method.replay.choice == "kmeans" else None
        chosen = {}
        for task in unit.tasks:
            data = self.stream.tasks[task]
            seed = derive_seed(self.stream.config.seed, "replay", task)
            features = None if full is None else _FeatureReader(engine, skeleton, full, self.stream)
            rows = choose_rows(
                data.train, method.replay.fraction, len(data.label_names), seed, features
            )
            chosen[self.stream.titles[task]] = rows.tolist()
        return chosen

    def _fisher_samples(self, unit: Unit) -> Iterable[Batch]:
        share = -(-self.stream.config.method.find.fisher_samples // len(unit.tasks))
        for task in unit.tasks:
            yield from self.stream.singles(task, share)

    def _protected(self, names: Iterable[str], after: int) -> set[str]:
        """Names without the heads of tasks that are not learned after unit ``after``."""
        seen = self.stages.units[after].seen if after >= 0 else ()
        open_heads = {title for i, title in enumerate(self.stream.titles) if i not in seen}
        return {name for name in names if target_of(name) not in open_heads}

    def _inherited(self, prefix: str) -> State:
        path = self.package / STATE_FILE
        if not path.is_file():
            return {}
        found = load_file(path)
        return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


class _Pooled(nn.Module):
    """The mean feature of each sequence as a forward pass, for ``functional_call``."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.pool(self.model.encode(batch), batch)


@dataclass(frozen=True, slots=True)
class _FeatureReader:
    """Rows to features [N, D] of the current weights, outside the engine."""

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
        for batch in eval_batches(samples, self.stream.config.eval_batch_size):
            moved = {key: value.to(device) for key, value in batch.items()}
            found.append(torch.func.functional_call(model, state, (moved,)).float().cpu().numpy())
        return np.concatenate(found)
