"""Word embedding."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import WordConfig
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
