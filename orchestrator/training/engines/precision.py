"""Number formats of passes, and the loss scaling that fp16 needs (Micikevicius et al. 2018, 3.2).

One implementation for every engine: the loss is multiplied before the backward pass, reduced fp32
gradients are divided over shards. An overflow shows as a gradient norm that is not finite, which
is the same number on every rank, so all ranks take the same decisions without another collective.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from orchestrator.config.strict import StrictModel
from orchestrator.training.engines.engine import Shard
from orchestrator.training.engines.engine_config import LossScaleConfig, Precision

COMPUTE: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Element types of forward and backward passes."""
FACTOR = 2.0
"""A power of two: scaling changes no mantissa."""
MIN_SCALE = 1.0


class LossScale(StrictModel):
    """State of a `LossScaler` in a checkpoint."""

    scale: float
    """The factor."""
    steps: int
    """Steps since it last changed."""


class LossScaler:
    """A factor of the loss: halved after an overflow, doubled after many steps without one.

    Args:
        precision: Only fp16 scales; otherwise the factor is 1 and stays.
        config: Where the factor begins, and how often it grows.
    """

    def __init__(self, precision: Precision, config: LossScaleConfig) -> None:
        self.active = precision == "fp16"
        self.scale = config.initial if self.active else 1.0
        self._growth_steps = config.growth_steps
        self._steps = 0

    @torch.no_grad()
    def unscale(self, shards: Iterable[Shard]) -> None:
        """Divide gradients by the factor."""
        if self.active:
            gradients = [shard.grad for shard in shards if shard.grad is not None]
            if gradients:
                torch._foreach_div_(gradients, self.scale)

    def stepped(self) -> None:
        """Count a step that was taken; grow where it is time."""
        if not self.active:
            return
        self._steps += 1
        if self._steps == self._growth_steps:
            self._steps = 0
            if math.isfinite(self.scale * FACTOR):
                self.scale *= FACTOR

    def skipped(self) -> bool:
        """Lower the factor after a step that was not taken; whether it could be lowered."""
        if not self.active or self.scale <= MIN_SCALE:
            return False
        self.scale, self._steps = max(MIN_SCALE, self.scale / FACTOR), 0
        return True

    def metrics(self) -> dict[str, float]:
        """``loss_scale`` where the loss is scaled."""
        return {"loss_scale": self.scale} if self.active else {}

    def state(self) -> LossScale | None:
        """Return the state for a checkpoint; None where the loss is not scaled."""
        return LossScale(scale=self.scale, steps=self._steps) if self.active else None

    def restore(self, stored: LossScale | None) -> None:
        """Continue from a checkpoint's state; one of another precision has none."""
        if self.active and stored is not None:
            self.scale, self._steps = stored.scale, stored.steps


def compute_type(precision: Precision, value: Tensor) -> torch.dtype:
    """Return the element type that an input of a pass has."""
    return COMPUTE[precision] if value.is_floating_point() else value.dtype
