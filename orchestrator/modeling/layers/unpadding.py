"""Packing of a padded batch into one row of its real positions.

Every layer but attention treats positions alone, so that none is spent on padding; attention reads
each sequence by itself (Zeng et al. 2022, "Boosting Distributed Training Performance of the
Unpadded BERT Model"; ModernBERT does the same on GPUs). Kernels for sequences of any length
(flash-attn, nested tensors) have no form for CPUs.

Legend: B batch, S length, D width, N real positions of the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.modeling.interfaces import Batch


@dataclass(frozen=True, slots=True)
class Packing:
    """Places of the real positions of a padded batch.

    Attributes:
        places: Their indices in the flattened batch, [N].
        lengths: How many each sequence has; together N.
        shape: B and S.
    """

    places: Tensor
    lengths: tuple[int, ...]
    shape: tuple[int, int]

    def pack(self, x: Tensor) -> Tensor:
        """Return the real positions of [B, S, ...] as one row, [1, N, ...]."""
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def restore(self, x: Tensor) -> Tensor:
        """Put [1, N, D] back into a padded batch, [B, S, D]; padding is 0."""
        batch, length = self.shape
        whole = x.new_zeros(batch * length, x.shape[-1])
        return whole.index_copy(0, self.places, x[0]).view(batch, length, -1)

    def row(self, mask: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return positions and document numbers of the packed row, [1, N] both."""
        count, length = self.shape
        positions = batch.get("position_ids")
        if positions is None:
            positions = torch.arange(length, device=mask.device)
        documents = torch.arange(count, device=mask.device)[:, None]
        return {
            "position_ids": self.pack(positions.expand(count, length)),
            "document_ids": self.pack(documents.expand(count, length)),
        }


def packing_of(mask: Tensor) -> Packing | None:
    """Return how a batch is packed; None: it has no padding, holes in it, or is on no CPU.

    Counting real positions would make another device wait.

    Args:
        mask: True at real positions, [B, S].
    """
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    lengths = mask.sum(1)
    holes = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0] > 1
    if bool((lengths == mask.shape[1]).all() | holes.any()):
        return None
    places = mask.flatten().nonzero()[:, 0]
    return Packing(places, tuple(lengths.tolist()), (mask.shape[0], mask.shape[1]))
