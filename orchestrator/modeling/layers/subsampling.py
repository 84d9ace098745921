"""How many frames are left after strided convolutions, and which of them are real.

Legend: B batch, S frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def subsampled(
    lengths: Tensor, kernels: Sequence[int], strides: Sequence[int], *, centred: bool
) -> Tensor:
    """Return the lengths after a stack of convolutions, int64 [B].

    Args:
        lengths: Lengths before, int64 [B].
        kernels: Of each convolution.
        strides: Of each convolution.
        centred: Padded by half a kernel on both sides, so that only the stride shortens:
            floor((L - 1) / stride) + 1 for odd kernels; otherwise floor((L - kernel) / stride) + 1.
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        around = 2 * (kernel // 2) if centred else 0
        lengths = torch.div(lengths + around - kernel, stride, rounding_mode="floor") + 1
    return lengths


def first_frames(lengths: Tensor, count: int) -> Tensor:
    """Return True at the first ``lengths`` [B] of ``count`` frames, [B, S]."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]
