"""Which positions may be attended to, and what is added to their scores.

Legend: B batch, H heads, S queries, T keys.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from orchestrator.modeling.interfaces import Batch

Order = Literal["bidirectional", "causal", "prefix"]
"""Read all positions; the position itself and earlier ones; these and those of a prefix."""


class AttentionMask(NamedTuple):
    """What attention may read, and what is added to its scores.

    Attributes:
        allowed: True where a query may read a key, broadcastable to [B, H, S, T]; None: everywhere.
        causal: Additionally only keys that are not later than the query. Never set together with
            ``allowed`` or ``bias`` (a fused kernel takes one or the other).
        bias: Added to the scores, broadcastable to [B, H, S, T]; -inf where not ``allowed``.
    """

    allowed: Tensor | None
    causal: bool = False
    bias: Tensor | None = None

    def plus(self, bias: Tensor) -> "AttentionMask":
        """Return this mask with another bias added to the scores, [1, H, S, T]."""
        if self.bias is not None:
            return self._replace(bias=self.bias + bias)
        allowed = self.allowed
        if self.causal:
            allowed = causal_mask(bias.shape[-2], bias.shape[-1], bias.device)
        if allowed is not None:
            bias = bias.masked_fill(~allowed, -torch.inf)
        return AttentionMask(allowed, bias=bias)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return True where a key is not later than the query, [S, T]; the queries come last."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def padding_mask(mask: Tensor) -> AttentionMask:
    """Return what may be read of another sequence, where ``mask`` [B, T] is True."""
    return AttentionMask(None if known_full(mask) else mask[:, None, None, :])


def attention_mask(
    mask: Tensor,
    *,
    order: Order,
    queries: int | None = None,
    window: int | None = None,
    batch: Batch | None = None,
) -> AttentionMask:
    """Combine padding with order, a window, a prefix and the borders of packed documents.

    Args:
        mask: True at real positions, [B, T].
        order: Which positions a position may read.
        queries: S, the number of positions at the end that read; None: all.
        window: Positions that a position may look back (and ahead, if bidirectional), itself
            included; None: all.
        batch: May hold ``prefix_mask`` [B, T], 1 where everybody may read (order ``prefix``), and
            ``document_ids`` [B, T]: positions of different documents never read one another.
    """
    length, device = mask.shape[1], mask.device
    queries = length if queries is None else queries
    allowed = None if known_full(mask) else mask[:, None, None, :]
    documents = None if batch is None else batch.get("document_ids")
    if documents is not None:
        same = documents[:, -queries:, None] == documents[:, None, :]
        allowed = _both(allowed, same[:, None])
    if window is not None and window < length:
        allowed = _both(allowed, _near(queries, length, window, device))
    if order == "bidirectional" or (queries == 1 and order == "causal"):
        return AttentionMask(allowed)
    prefix = batch.get("prefix_mask") if batch is not None and order == "prefix" else None
    if allowed is None and prefix is None and queries == length:
        return AttentionMask(None, causal=True)
    earlier = causal_mask(queries, length, device)
    if prefix is not None:
        earlier = earlier | prefix[:, None, None, :].bool()
    return AttentionMask(_both(allowed, earlier))


def _both(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first & second


def _near(queries: int, length: int, window: int, device: torch.device) -> Tensor:
    positions = torch.arange(length, device=device)
    distance = positions[length - queries :, None] - positions
    return distance.abs() < window


def known_full(mask: Tensor) -> bool:
    """Whether no position is padding; asked only where the answer costs no synchronisation.

    A mask that is one value seen everywhere is that of a batch without padding (``all_real``).
    """
    if not any(mask.stride()):
        return True
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(mask.all())
