"""Constrain by flatness: the soft penalty and the box, element-wise over shards.

With anchors ``m`` (weights at the end of the previous task) and importance ``F``:

    penalty   P(w) = lambda / 2 * sum_i F_i (w_i - m_i)^2,  its gradient added to the task's
    box       w_i <- clip(w_i, m_i - b_i, m_i + b_i),  b_i = max(radius * |m_i|, floor)

The penalty's gradient is taken at the restored weights, not at the perturbed point: the min-max is
over the task loss only. It is written onto the fp32 masters' gradients, no graph is built.

Deviations from the published code: the box has a radius of its own (there it is the rho of the
previous task) and an absolute floor (there a weight anchored at 0 stays 0 for ever), and the sum of
both gradients is clipped to ``max_grad_norm`` (there nothing is clipped).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from orchestrator.errors import StageError
from orchestrator.training.engine import Engine, Shard
from orchestrator.training.shards import gradient, part_of


@dataclass(slots=True)
class Anchors:
    """What earlier tasks left behind, cut like this rank's shards.

    Parameters that did not exist then (a new head) are in neither: no penalty, no box.

    Attributes:
        weights: Anchor ``m`` of each shard by parameter name, [n].
        importance: ``F`` of each shard, [n]; the same names.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    importance: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def cut(
        cls, engine: Engine, weights: Mapping[str, Tensor], importance: Mapping[str, Tensor]
    ) -> "Anchors":
        """Take this rank's part of full tensors; no communication.

        Args:
            engine: Whose shards to follow.
            weights: Full anchors by parameter name.
            importance: Full importance, the same names and shapes.

        Raises:
            StageError: A weight has an anchor but no importance, or the other way round.
        """
        if weights.keys() != importance.keys():
            names = sorted(weights.keys() ^ importance.keys())
            raise StageError(f"anchors and importance differ in: {', '.join(names)}")
        known = [shard for shard in engine.shards() if shard.name in weights]
        parts = [
            {shard.name: part_of(full, shard).to(shard.master, copy=True) for shard in known}
            for full in (weights, importance)
        ]
        return cls(*parts)

    def __bool__(self) -> bool:
        return bool(self.weights)


@torch.no_grad()
def add_penalty(shards: list[Shard], anchors: Anchors, strength: float) -> Tensor:
    """Add the penalty's gradient ``lambda * F * (w - m)`` to the gradients.

    Args:
        shards: This rank's shards; their masters are at ``w``.
        anchors: What to stay close to.
        strength: lambda.

    Returns:
        This rank's part of the penalty's value, 0-dim fp64 (sum it over shards).
    """
    value = torch.zeros((), dtype=torch.float64)
    for shard in shards:
        if (anchor := anchors.weights.get(shard.name)) is None:
            continue
        away = shard.master - anchor
        pull = anchors.importance[shard.name] * away
        gradient(shard).add_(pull, alpha=strength)
        value += 0.5 * strength * torch.dot(pull.double(), away.double()).cpu()
    return value


@dataclass(slots=True)
class Box:
    """A projection for ``Engine.step`` that also counts what it clamps.

    Attributes:
        anchors: Centres of the box.
        radius: Half width relative to an anchor's size.
        floor: Smallest half width.
        clamped: Elements of this rank that the last step clamped.
        total: Elements of this rank that have a box.
    """

    anchors: Anchors
    radius: float
    floor: float
    clamped: int = 0
    total: int = 0

    @torch.no_grad()
    def __call__(self, shards: list[Shard]) -> None:
        """Clamp the masters in place. An engine may call this once a group of shards."""
        for shard in shards:
            if (anchor := self.anchors.weights.get(shard.name)) is None:
                continue
            half = (anchor.abs() * self.radius).clamp_(min=self.floor)
            inside = torch.clamp(shard.master, anchor - half, anchor + half)
            self.clamped += int((inside != shard.master).sum())
            self.total += inside.numel()
            shard.master.copy_(inside)

    def reset(self) -> None:
        """Start counting a new step."""
        self.clamped = self.total = 0
