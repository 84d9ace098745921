"""Stochastic depth (Huang et al. 2016): while training, a sample sometimes skips a sub-layer."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Set a sub-layer's output to zero for some samples, and scale up the others.

    Args:
        rate: Share of the samples that skip; 0: none.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, S, D]; outside training what came in."""
        if not self.training or not self.rate:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1.0 - self.rate)


def rates_of_layers(last: float, layers: int) -> list[float]:
    """Return the rate of each layer: 0 in the first, growing linearly to ``last``."""
    return [last * layer / max(layers - 1, 1) for layer in range(layers)]
