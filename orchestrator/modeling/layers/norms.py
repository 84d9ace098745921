"""Norms over the last axis."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OffsetRMSNorm(nn.Module):
    """RMSNorm with factors 1 + weight, all in fp32 (Gemma team 2024). Parameters: ``weight`` [D].

    ``nn.RMSNorm`` multiplies by the weight itself; decay of it would pull the factors to 0.

    Args:
        width: D.
        eps: Added to the mean square, under the square root.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def initialize(self, std: float) -> None:
        """Set every factor to 1."""
        del std
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [..., D]."""
        normed = F.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps)
        return normed.type_as(x)


def build_norm(name: str, width: int, eps: float, *, bias: bool = True) -> nn.Module:
    """Return a norm over the last axis, of size ``width``.

    Args:
        name: ``layernorm`` (Ba et al. 2016, biased variance), ``rms`` (Zhang and Sennrich 2019) or
            ``rms_offset`` (Gemma).
        width: Size of the last axis.
        eps: Added to the variance, under the square root.
        bias: Whether a LayerNorm has a bias.
    """
    if name == "rms":
        return nn.RMSNorm(width, eps=eps)
    if name == "rms_offset":
        return OffsetRMSNorm(width, eps)
    return nn.LayerNorm(width, eps=eps, bias=bias)
