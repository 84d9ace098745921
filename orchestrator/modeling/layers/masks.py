"""Which positions may be attended to."""

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionMask(NamedTuple):
    """What attention may read.

    Attributes:
        allowed: True where a query may read a key, broadcastable to [B, H, S, S]; None: everywhere.
        causal: Additionally only keys that are not later than the query. Never set together with
            ``allowed`` (a fused kernel takes one or the other).
    """

    allowed: Tensor | None
    causal: bool = False


def attention_mask(mask: Tensor, *, causal: bool) -> AttentionMask:
    """Combine padding with causality.

    Args:
        mask: True at real positions, [B, S].
        causal: Forbid reading later positions.
    """
    if _known_full(mask):
        return AttentionMask(None, causal)
    keys = mask[:, None, None, :]
    if not causal:
        return AttentionMask(keys)
    length = mask.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return AttentionMask(keys & earlier)


def _known_full(mask: Tensor) -> bool:
    """Whether no position is padding; asked only where the answer costs no synchronisation."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(mask.all())
