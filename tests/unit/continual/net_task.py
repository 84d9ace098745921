"""The view that parts get of a task, for a model without a stream; and a step over it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from orchestrator.continual.parts.base import Anchors
from orchestrator.continual.step import ContinualStep, build_parts
from orchestrator.training.engines.engine import Engine
from orchestrator.training.loop import WindowSource


@dataclass
class NetTask:
    """Full anchors and importance by parameter name, and windows to rehearse."""

    engine: Engine
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    importance: dict[str, torch.Tensor] = field(default_factory=dict)
    windows: Sequence[WindowSource] = ()
    earlier_heads: frozenset[str] = frozenset()

    @property
    def anchors(self):
        return Anchors.cut(self.engine, self.weights)

    def left(self, name):
        return self.importance if name == "importance" else {}

    def exemplars(self, count, known=()):
        return ()

    def buffers(self):
        return self.windows


def step_of(method, engine, max_grad_norm=None, **left):
    """Return the step of a method after `before_task`."""
    parts = build_parts(method.used())
    for part in parts:
        part.before_task(NetTask(engine, **left))
    return ContinualStep(parts, max_grad_norm)
