"""Gathering of rows from all workers, with gradients.

Legend: B rows of this worker, N rows of all, D width.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all workers, and the index of this worker's first row among them.

    Collective where a process group exists: all workers must call it, forward and backward. The
    gradient of a row is the sum of the gradients of all workers' losses.

    Args:
        x: [B, D]; B may differ between workers.

    Returns:
        [N, D] in the order of the ranks.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x, 0
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=x.device)
    counts[dist.get_rank()] = len(x)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    rows: Tensor = _Gather.apply(x, sizes)  # type: ignore[no-untyped-call]
    return rows, sum(sizes[: dist.get_rank()])


class _Gather(torch.autograd.Function):
    """All-gather of rows; its transpose is an all-reduce of their gradients, cut to our own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:  # type: ignore[override]
        ctx.sizes = sizes
        # all_gather takes tensors of one shape only; the padding is cut off again below.
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradient.contiguous().clone()  # autograd may still use the original
        dist.all_reduce(total)
        rank = dist.get_rank()
        start = sum(ctx.sizes[:rank])
        return total[start : start + ctx.sizes[rank]], None
