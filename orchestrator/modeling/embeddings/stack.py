"""The sum of embedding parts."""

from typing import cast

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.config import EmbeddingStackConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart
from orchestrator.modeling.registry import embeddings

STACK_NAMES = ("norm", "dropout")


class EmbeddingStack(nn.Module):
    """Sum of parts, optional LayerNorm, dropout.

    Parameters: ``<part type>.*`` (for example ``word.weight``) and ``norm.*``.
    """

    def __init__(self, config: EmbeddingStackConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.part_names = tuple(part.type_name() for part in config.parts)
        for name, part in zip(self.part_names, config.parts, strict=True):
            self.add_module(name, embeddings.component_class(name)(part, dimensions))
        width = dimensions.hidden_size
        self.norm = nn.LayerNorm(width, eps=config.norm_eps) if config.layernorm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed a batch.

        Returns:
            The vectors, [B, S, D], and the mask, True at real positions, [B, S]:
            ``attention_mask``, or all True if the batch has none.

        Raises:
            InputError: The mask does not fit the input, or a part cannot read the batch.
        """
        total: Tensor | None = None
        for name in self.part_names:
            part = cast(EmbeddingPart, self.get_submodule(name))
            summand = part(batch, total)
            total = summand if total is None else total + summand
        hidden = cast(Tensor, total)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return self.dropout(hidden), _mask(batch, hidden)


def _mask(batch: Batch, hidden: Tensor) -> Tensor:
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    if mask.shape != hidden.shape[:2]:
        raise InputError(
            f"attention_mask is {list(mask.shape)}, the input has [batch, positions] "
            f"{list(hidden.shape[:2])}. They must be equal."
        )
    return mask.bool()
