"""Learned factors on the output of sub-layers."""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor (Touvron et al. 2021). Parameters: ``weight`` [D].

    Args:
        width: D.
        start: First value of every factor.
    """

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(width))

    def initialize(self, std: float) -> None:
        """Set every factor to its first value."""
        del std
        nn.init.constant_(self.weight, self.start)

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., D]."""
        return x * self.weight


def build_scale(width: int, start: float | None) -> nn.Module:
    """Return a layer scale, or the identity where there is none."""
    return nn.Identity() if start is None else LayerScale(width, start)
