"""Cutting of a sequence whose positions read near ones only, so that cost grows with its length.

Each chunk of queries reads its own keys and those around it, as in Longformer (Beltagy et al. 2020,
section 3.1): the answers of a mask over all pairs, without the pairs that it excludes. Chunks stand
in the batch axis, so that any attention over [B, H, S, d] serves them. No library does this on
CPUs: flex attention and xformers need a compiler or a GPU.

Legend: B batch, H heads, S length, d head size, N chunks, C queries of a chunk, K keys of a chunk.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.modeling.layers.chunk_sizes import chunk_of

OUTSIDE = -1
"""Document of keys before the first and after the last position."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """A sequence in chunks.

    Attributes:
        size: C.
        before: Keys of a chunk before its first query.
        after: Keys of a chunk after its last query; K is ``before + size + after``.
        allowed: True where a query may read a key, [B, N, C, K], or [1, N, C, K] for every row.
    """

    size: int
    before: int
    after: int
    allowed: Tensor

    def queries(self, x: Tensor) -> Tensor:
        """Cut [B, H, S, d] into [B * N, H, C, d]; the last chunk is filled with zeros."""
        batch, heads, length, width = x.shape
        x = F.pad(x, (0, 0, 0, -length % self.size)).view(batch, heads, -1, self.size, width)
        return x.transpose(1, 2).flatten(0, 1)

    def keys(self, x: Tensor) -> Tensor:
        """Cut [B, H, S, d] into [B * N, H, K, d]; neighbors overlap."""
        after = self.after - x.shape[2] % -self.size
        padded = F.pad(x, (0, 0, self.before, after))
        cut = padded.unfold(2, self.before + self.size + self.after, self.size)
        return cut.permute(0, 2, 1, 4, 3).flatten(0, 1)

    def mask(self, batch: int) -> Tensor:
        """Return what each query of a chunk may read, [B * N, 1, C, K]."""
        return self.allowed.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]

    def whole(self, x: Tensor, length: int) -> Tensor:
        """Put [B * N, H, C, d] together again, [B, H, S, d]."""
        count = self.allowed.shape[1]
        x = x.view(-1, count, *x.shape[1:]).transpose(1, 2)
        return x.flatten(2, 3)[:, :, :length]


def cut(
    mask: Tensor, window: int, *, causal: bool, documents: Tensor | None = None
) -> Chunks | None:
    """Return the chunks of a sequence, or None where it is too short for them to pay.

    Args:
        mask: True at real positions, [B, S] or [1, S] for every row.
        window: Positions that a position may look back, itself included.
        causal: Whether it may not look ahead as far.
        documents: Numbers [B, S]; positions of different documents never read one another.
    """
    length, device = mask.shape[1], mask.device
    size = chunk_of(window, length, both_sides=not causal)
    if size is None:
        return None
    before, after = window - 1, 0 if causal else window - 1
    query = torch.arange(size, device=device)
    distance = torch.arange(-before, size + after, device=device) - query[:, None]
    near = (distance > -window) & (distance < (1 if causal else window))
    keys = before + size + after
    filled = after - length % -size

    def around(x: Tensor, value: int) -> Tensor:
        """Return what belongs to the keys of each chunk, [B, N, K]."""
        return F.pad(x, (before, filled), value=value).unfold(1, keys, size)

    allowed = near & around(mask, 0)[:, :, None, :]
    if documents is not None:
        own = F.pad(documents, (0, -length % size), value=OUTSIDE).view(len(documents), -1, size)
        allowed = allowed & (own[..., None] == around(documents, OUTSIDE)[:, :, None, :])
    return Chunks(size, before, after, allowed)
