"""Word embedding.

Segment embedding.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import SegConfig, WordConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart


class WordEmbedding(EmbeddingPart):
    """Row ``input_ids[b, s]`` of ``weight`` [V, D], optionally times sqrt(D)."""

    is_table: ClassVar[bool] = True

    Config = WordConfig

    def __init__(self, config: WordConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.factor = width**0.5 if config.scale else 1.0
        self.weight = nn.Parameter(torch.empty(dimensions.vocab_size, width))

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D]; reads ``input_ids``.

        Raises:
            InputError: The batch has no ``input_ids``.
        """
        if "input_ids" not in batch:
            raise InputError(f"The model reads input_ids; the batch has {', '.join(batch)}.")
        rows = F.embedding(batch["input_ids"], self.weight)
        return rows if self.factor == 1.0 else rows * self.factor


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
