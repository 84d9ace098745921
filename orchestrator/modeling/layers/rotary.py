"""Rotary position embedding (Su et al. 2021), half-split layout as in transformers' LLaMA.

Channel i is rotated together with channel i + d/2, by the angle position * theta^(-2i/d), i < d/2.
"""

import torch
from torch import Tensor


def rotation(positions: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> Tensor:
    """Return cosines and sines of the rotation angles, computed in fp32.

    Args:
        positions: Position ids, [B, S] or [1, S].
        head_size: Even width d of a head.
        theta: Base of the wavelengths.
        dtype: Type of the result.

    Returns:
        [2, B, 1, S, d]: cosines, then sines, ready to broadcast over heads.
    """
    device = positions.device
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = positions[..., None].float() * theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return torch.stack([angles.cos(), angles.sin()]).to(dtype)


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate queries or keys [B, H, S, d] by the angles of ``rotation``."""
    left, right = x.chunk(2, dim=-1)
    return x * cos_sin[0] + torch.cat([-right, left], dim=-1) * cos_sin[1]
