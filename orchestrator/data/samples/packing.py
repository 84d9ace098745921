"""Several documents in one block, kept apart.

A document begins with [CLS]; tokens before the first [CLS] of a block are the rest of an earlier
document, and count as a separate document. Padding belongs to the last document, but is masked.

Krell et al. 2021 (arXiv 2107.02027), section 3.2: positions restart with each document, and
attention stays inside it, so a document in a block has the same result as alone.

Shapes: B batch, S block size.
"""

from typing import Literal

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.spec import CLS

Packing = Literal["stream", "documents"]


def document_ids(ids: IntArray) -> IntArray:
    """Return the number of the document of each token within its block: int64 [B, S]."""
    return np.cumsum(ids == CLS, axis=1)


def document_starts(ids: IntArray) -> IntArray:
    """Return where in its block the document of each token begins: int64 [B, S]."""
    place = np.arange(ids.shape[1])
    return np.maximum.accumulate(np.where(ids == CLS, place, 0), axis=1)


def layout(ids: IntArray, packing: Packing) -> dict[str, IntArray]:
    """Return what a model needs to keep the documents of a block apart; nothing for a stream.

    Returns:
        ``document_ids`` and ``position_ids``, int64 [B, S].
    """
    if packing == "stream":
        return {}
    position_ids = np.arange(ids.shape[1]) - document_starts(ids)
    return {"document_ids": document_ids(ids), "position_ids": position_ids}
