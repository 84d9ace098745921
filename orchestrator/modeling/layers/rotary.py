"""Rotary position embedding (Su et al. 2021), in both layouts, with scaling to longer sequences.

Halves (transformers' LLaMA, GPT-NeoX): channel i is rotated together with channel i + d/2, by the
angle position * theta^(-2i/d), i < d/2. Pairs (the original): channels 2i and 2i + 1 are.

Scaled frequencies are those of transformers' ``ROPE_INIT_FUNCTIONS``; its ``dynamic`` scaling is
left out, since it turns keys that are already in a cache by other angles.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from orchestrator.modeling.layers.block_options import (
    LinearScaling,
    Llama3Scaling,
    RotaryConfig,
    YarnScaling,
)


class Rotation(NamedTuple):
    """Angles by which queries and keys are turned, and which channels are turned together.

    Attributes:
        cos: Cosines for each channel, [B, 1, S, d].
        sin: Sines, [B, 1, S, d].
        pairs: Neighbors are turned together; otherwise channels half a head apart.
    """

    cos: Tensor
    sin: Tensor
    pairs: bool


def rotation(
    config: RotaryConfig, positions: Tensor, head_size: int, dtype: torch.dtype
) -> Rotation:
    """Return the rotation of each position, computed in fp32.

    Args:
        config: Base of the wavelengths, layout and scaling.
        positions: Position ids, [B, S] or [1, S].
        head_size: Even width d of a head.
        dtype: Type of the result.
    """
    angles = positions[..., None].float() * frequencies(config, head_size, positions.device)
    pairs = config.layout == "pairs"
    angles = angles.repeat_interleave(2, dim=-1) if pairs else torch.cat([angles, angles], dim=-1)
    angles = angles[:, None]
    size = magnitude(config)
    return Rotation((angles.cos() * size).to(dtype), (angles.sin() * size).to(dtype), pairs)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys [B, H, S, d]."""
    if by.pairs:
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    else:
        left, right = x.chunk(2, dim=-1)
        turned = torch.cat([-right, left], dim=-1)
    return x * by.cos + turned * by.sin


def frequencies(config: RotaryConfig, head_size: int, device: torch.device) -> Tensor:
    """Return the angle per position of each pair of channels, fp32 [d/2]."""
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    plain = 1.0 / config.theta**exponents
    scaling = config.scaling
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling)
    if isinstance(scaling, YarnScaling):
        return _yarn(plain, scaling, config.theta)
    return plain


def magnitude(config: RotaryConfig) -> float:
    """Return the factor on rotated queries and keys, which only YaRN has."""
    scaling = config.scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale is not None and scaling.mscale_all_dim is not None:
        own, all_dim = scaling.mscale, scaling.mscale_all_dim
        return _sharpness(scaling.factor, own) / _sharpness(scaling.factor, all_dim)
    return _sharpness(scaling.factor, 1.0)


def _sharpness(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Blend plain and slowed waves by how often a wave fits into the original length."""
    length = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = length / (2 * math.pi / plain)
    share = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - share) * plain / scaling.factor + share * plain


def _yarn(plain: Tensor, scaling: YarnScaling, theta: float) -> Tensor:
    """Blend plain and slowed waves by channel (Peng et al. 2023, section 3.2)."""
    size = 2 * len(plain)

    def channel(turns: float) -> float:
        length = scaling.original_max_position_embeddings
        return size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001
    index = torch.arange(len(plain), device=plain.device, dtype=torch.float32)
    slowed = ((index - low) / width).clamp(0.0, 1.0)
    return plain / scaling.factor * slowed + plain * (1 - slowed)
