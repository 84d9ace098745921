"""Learned position embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import PosConfig
from orchestrator.modeling.embeddings.positions import position_ids
from orchestrator.modeling.interfaces import Batch, EmbeddingPart


class PositionEmbedding(EmbeddingPart):
    """Row ``offset + position`` of ``weight`` [max_position_embeddings + offset, D].

    Pad-aware counting gives padding row ``offset - 1`` and the n-th real token row ``offset + n``
    (RoBERTa with ``offset = pad_token_id + 1``).
    """

    Config = PosConfig

    def __init__(self, config: PosConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.limit = dimensions.max_position_embeddings
        self.offset = config.offset
        self.pad_aware = config.pad_aware
        self.weight = nn.Parameter(torch.empty(self.limit + config.offset, dimensions.hidden_size))

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D] or [1, S, D].

        Raises:
            InputError: The sequence is longer than the table.
        """
        positions = position_ids(batch, total, self.limit, pad_aware=self.pad_aware)
        return F.embedding(positions.clamp(min=-self.offset) + self.offset, self.weight)
