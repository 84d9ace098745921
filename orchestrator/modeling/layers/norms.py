"""Norms over the last axis."""

from torch import nn


def build_norm(name: str, width: int, eps: float, *, bias: bool = True) -> nn.Module:
    """Return a norm over the last axis, of size ``width``.

    Args:
        name: ``layernorm`` (Ba et al. 2016, biased variance) or ``rms`` (Zhang and Sennrich 2019).
        width: Size of the last axis.
        eps: Added to the variance, under the square root.
        bias: Whether a LayerNorm has a bias.
    """
    if name == "rms":
        return nn.RMSNorm(width, eps=eps)
    return nn.LayerNorm(width, eps=eps, bias=bias)
