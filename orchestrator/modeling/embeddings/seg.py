"""Segment embedding."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import SegConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart


class SegmentEmbedding(EmbeddingPart):
    """Row ``token_type_ids[b, s]`` of ``weight`` [type_vocab_size, D]; row 0 without them."""

    is_table: ClassVar[bool] = True

    Config = SegConfig

    def __init__(self, config: SegConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dimensions.type_vocab_size, dimensions.hidden_size))

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D], or [1, 1, D] if the batch names no segments."""
        segments = batch.get("token_type_ids")
        if segments is None:
            return self.weight[None, :1]
        return F.embedding(segments, self.weight)
