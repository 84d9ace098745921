"""Position ids of a batch."""

import torch
from torch import Tensor

from orchestrator.errors import InputError
from orchestrator.modeling.interfaces import Batch


def position_ids(
    batch: Batch, total: Tensor | None, limit: int, *, pad_aware: bool = False
) -> Tensor:
    """Return the position of each element: ``batch["position_ids"]`` if given, else 0, 1, 2, ...

    Where tokens are added to earlier ones, ``attention_mask`` covers both, and counting goes on.

    Args:
        batch: The inputs.
        total: Sum of the earlier embedding parts, [B, S, D], which knows the length.
        limit: Number of positions the model has.
        pad_aware: Count real positions only, by ``attention_mask``; padding gets -1.

    Returns:
        int64, [B, S] or [1, S].

    Raises:
        InputError: The sequence is longer than ``limit``, or there is no earlier part.
    """
    if total is None:
        raise InputError("A position part cannot come first. Put `word` or `patch` before it.")
    length = total.shape[1]
    mask = batch.get("attention_mask")
    covered = length if mask is None or "input_ids" not in batch else mask.shape[1]
    end = max(length, covered)
    if end > limit:
        raise InputError(
            f"The sequence has {end} positions; the model has {limit} "
            "(max_position_embeddings). Truncate the input."
        )
    given = batch.get("position_ids")
    if given is not None:
        return given
    if pad_aware and mask is not None:
        real = mask.long()
        return (real.cumsum(1) * real - 1)[:, -length:]
    return torch.arange(end - length, end, device=total.device)[None]
