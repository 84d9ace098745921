"""Number formats of passes, and the loss scaling that fp16 needs (Micikevicius et al. 2018, 3.2).

One implementation for every engine: the loss is multiplied before the backward pass, reduced fp32
gradients are divided over shards. An overflow shows as a gradient norm that is not finite, which
is the same number on every rank, so all ranks take the same decisions without another collective.
"""

import math
from collections.abc import Iterable, Mapping

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
        device: Decides on steps, so the factor lies there; None: the host does.
    """

    def __init__(
        self, precision: Precision, config: LossScaleConfig, device: torch.device | None = None
    ) -> None:
        self.active = precision == "fp16"
        self.scale: float | Tensor = config.initial if self.active else 1.0
        self._growth_steps = config.growth_steps
        self._steps: int | Tensor = 0
        if device is not None:
            self.move_to(device)

    def move_to(self, device: torch.device) -> None:
        """Let the factor lie on a device, whose decisions change it from now on."""
        if self.active:
            self.scale = torch.tensor(float(self.scale), device=device)
            self._steps = torch.tensor(int(self._steps), dtype=torch.int32, device=device)

    @torch.no_grad()
    def unscale(self, shards: Iterable[Shard]) -> None:
        """Divide gradients by the factor."""
        if self.active:
            gradients = [shard.grad for shard in shards if shard.grad is not None]
            if gradients:
                torch._foreach_div_(gradients, self.scale)

    def stepped(self, finite: Tensor | None = None) -> None:
        """Count a step that was taken; grow where it is time.

        Args:
            finite: 0-dim bool; where it is False the step was not taken, and the factor comes
                down. None: it was.
        """
        if not self.active:
            return
        if isinstance(self.scale, Tensor) and isinstance(self._steps, Tensor):
            left = self.scale.new_zeros(()) if finite is None else finite.logical_not().float()
            torch._amp_update_scale_(
                self.scale, self._steps, left, FACTOR, 1.0 / FACTOR, self._growth_steps
            )
            self.scale.clamp_(min=MIN_SCALE)
            return
        self._steps += 1
        if self._steps == self._growth_steps:
            self._steps = 0
            if math.isfinite(self.scale * FACTOR):
                self.scale *= FACTOR

    def skipped(self) -> bool:
        """Lower the factor after a step that was not taken; whether it could be lowered."""
        if not self.active:
            return False
        lowered = bool(self.scale > MIN_SCALE)
        if isinstance(self.scale, Tensor):
            self.stepped(torch.zeros_like(self.scale).bool())
        else:
            self.scale, self._steps = max(MIN_SCALE, self.scale / FACTOR), 0
        return lowered

    def metrics(self) -> Mapping[str, float] | Mapping[str, Tensor]:
        """``loss_scale`` where the loss is scaled."""
        if not self.active:
            return {}
        if isinstance(self.scale, Tensor):  # a copy: the step changes it
            return {"loss_scale": self.scale.double()}
        return {"loss_scale": self.scale}

    def state(self) -> LossScale | None:
        """Return the state for a checkpoint; None where the loss is not scaled."""
        if not self.active:
            return None
        return LossScale(scale=float(self.scale), steps=int(self._steps))

    def restore(self, stored: LossScale | None) -> None:
        """Continue from a checkpoint's state; one of another precision has none."""
        if self.active and stored is not None:
            place = self.scale.device if isinstance(self.scale, Tensor) else None
            self.scale, self._steps = stored.scale, stored.steps
            if place is not None:
                self.move_to(place)


def compute_type(precision: Precision, value: Tensor) -> torch.dtype:
    """Return the element type that an input of a pass has."""
    return COMPUTE[precision] if value.is_floating_point() else value.dtype
