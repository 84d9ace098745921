"""Box constraint: weights stay near those at the end of the previous task.

With anchors ``m``, after every optimizer step:

    w_i <- clip(w_i, m_i - b_i, m_i + b_i),  b_i = max(radius * |m_i|, floor)

Deviations from the published code: the box has a radius of its own (there it is the rho of the
previous task) and an absolute floor (there a weight anchored at 0 stays 0 for ever).
"""

import torch
from torch import Tensor

from orchestrator.continual.parts.base import Anchors, Part, ShardSums, Task
from orchestrator.continual.parts.configs import ClampConfig
from orchestrator.training.engines.engine import Projection, Shard


def half_width(anchor: Tensor, radius: float, floor: float) -> Tensor:
    """Return ``b = max(radius * |m|, floor)``, shaped like the anchor ``m``."""
    return (anchor.abs() * radius).clamp_(min=floor)


class Clamp(Part[ClampConfig]):
    """Clip the masters into the box, and count what is clipped.

    Reports ``clamped_share``: the share of elements with a box that the last step clamped.
    """

    _anchors = Anchors()
    _clamped = _total = 0

    def before_task(self, task: Task) -> None:
        """Put the box around the anchors; without any, nothing is clamped."""
        self._anchors = task.anchors

    def projection(self) -> Projection | None:
        """Return the clipping of one update."""
        self._clamped = self._total = 0
        return self._clip if self._anchors else None

    def shard_sums(self) -> ShardSums:
        """Return the clamped elements of the last update."""
        if not self._anchors:
            return {}
        return {"clamped_share": (float(self._clamped), float(self._total))}

    @torch.no_grad()
    def _clip(self, shards: list[Shard]) -> None:
        """Clip in place. An engine may call this once per group of shards, so the counts add."""
        for shard in shards:
            if (anchor := self._anchors.weights.get(shard.name)) is None:
                continue
            half = half_width(anchor, self.config.radius, self.config.floor)
            inside = torch.clamp(shard.master, anchor - half, anchor + half)
            self._clamped += int((inside != shard.master).sum())
            self._total += inside.numel()
            shard.master.copy_(inside)
