"""One optimizer step of a task: create x constrain x replay, each switchable.

Order of a full C&F step (the published code's): gradient at ``w``; ascent to ``w + e``; gradient
there; back to ``w``; penalty gradient at ``w``; clip, optimizer step; box. With rho 0, no anchors
and no buffers it *is* the plain step, bit by bit. Every switch-off removes its passes, so ``ewc``,
``sam``, ``replay`` and ``finetune`` are this step with fewer parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from orchestrator.continual.config import MethodConfig
from orchestrator.continual.constraints import Anchors, Box, add_penalty
from orchestrator.continual.create import perturbed
from orchestrator.training.engine import Batch, Engine
from orchestrator.training.loop import Metrics, WindowSource, descend
from orchestrator.training.seeding import keep_noise


@dataclass(slots=True)
class ContinualStep:
    """A ``StepFunction`` for ``training.loop.train``.

    Attributes:
        method: Which parts are on, and their numbers.
        anchors: What earlier tasks left behind; empty in the first task.
        max_grad_norm: Bound of the norm of task and penalty gradient together.
        buffers: Rows of earlier tasks as window sources, one a task.
        steps_done: Steps of this task already taken (from a checkpoint).
    """

    method: MethodConfig
    anchors: Anchors
    max_grad_norm: float | None
    buffers: Sequence[WindowSource] = ()
    steps_done: int = 0
    _box: Box | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.method.uses("clamp") and self.anchors:
            clamp = self.method.clamp
            self._box = Box(self.anchors, clamp.radius, clamp.floor)

    def __call__(self, engine: Engine, window: Sequence[Batch], lr: float) -> Metrics:
        """Take one step on the task's window, then the rehearsals that are due."""
        metrics = self._update(engine, window, lr)
        self.steps_done += 1
        every = self.method.replay.every_steps
        if not self.buffers or self.steps_done % every:
            return metrics
        turn = self.steps_done // every - 1
        losses = [
            self._update(engine, buffer.window(turn, engine.rank, engine.world), lr)["loss"]
            for buffer in self.buffers
        ]
        return {**metrics, "replay_loss": sum(losses) / len(losses)}

    def _update(self, engine: Engine, window: Sequence[Batch], lr: float) -> Metrics:
        metrics = self._gradient(engine, window)
        penalty = torch.zeros((), dtype=torch.float64)
        constrained = bool(self.anchors) and self.method.uses("find")
        if constrained and self.method.find.penalty > 0:
            penalty = add_penalty(engine.shards(), self.anchors, self.method.find.penalty)
        if self._box is not None:
            self._box.reset()
        norm = self.max_grad_norm
        metrics = descend(engine, metrics, lr, max_grad_norm=norm, project=self._box)
        return {**metrics, **self._constraint_metrics(engine, penalty)} if self.anchors else metrics

    def _gradient(self, engine: Engine, window: Sequence[Batch]) -> Metrics:
        """Leave the gradient to descend by: at ``w``, or at the worst point near it."""
        create = self.method.create
        if not self.method.uses("create") or create.rho == 0:
            return engine.forward_backward(window)
        same_noise = keep_noise(next(engine.module.parameters()).device)
        metrics = engine.forward_backward(window)
        if not math.isfinite(metrics["loss"]):
            return metrics
        with perturbed(engine, create.rho, adaptive=create.adaptive):
            same_noise()
            there = engine.forward_backward(window)
        return {**metrics, "sharpness": there["loss"] - metrics["loss"]}

    def _constraint_metrics(self, engine: Engine, penalty: torch.Tensor) -> Metrics:
        """The penalty's value and the share of weights at the box; one small collective."""
        clamped, total = (0, 0) if self._box is None else (self._box.clamped, self._box.total)
        local = torch.tensor([float(penalty), float(clamped), float(total)], dtype=torch.float64)
        value, clamped_all, total_all = engine.sum_over_shards(local).tolist()
        share = {} if self._box is None else {"clamped_share": clamped_all / max(1.0, total_all)}
        return {"penalty": value, **share}
