"""Rotary position embedding (Su et al. 2021), in both layouts.

Halves (transformers' LLaMA, GPT-NeoX): channel i is rotated together with channel i + d/2, by the
angle position * theta^(-2i/d), i < d/2. Pairs (the original): channels 2i and 2i + 1 are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from orchestrator.modeling.encoders.configs import RotaryConfig


class Rotation(NamedTuple):
    """Angles by which queries and keys are turned, and which channels are turned together.

    Attributes:
        cos: Cosines for each channel, [B, 1, S, d].
        sin: Sines, [B, 1, S, d].
        pairs: Neighbours are turned together; otherwise channels half a head apart.
    """

    cos: Tensor
    sin: Tensor
    pairs: bool


def rotation(
    config: RotaryConfig, positions: Tensor, head_size: int, dtype: torch.dtype
) -> Rotation:
    """Return the rotation of each position, computed in fp32.

    Args:
        config: Base of the wavelengths, and layout.
        positions: Position ids, [B, S] or [1, S].
        head_size: Even width d of a head.
        dtype: Type of the result.
    """
    device = positions.device
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = positions[..., None].float() * config.theta**-exponents
    pairs = config.layout == "pairs"
    angles = angles.repeat_interleave(2, dim=-1) if pairs else torch.cat([angles, angles], dim=-1)
    angles = angles[:, None]
    return Rotation(angles.cos().to(dtype), angles.sin().to(dtype), pairs)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys [B, H, S, d]."""
    if by.pairs:
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    else:
        left, right = x.chunk(2, dim=-1)
        turned = torch.cat([-right, left], dim=-1)
    return x * by.cos + turned * by.sin
