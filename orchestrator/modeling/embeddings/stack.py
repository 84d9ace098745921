"""The sum of embedding parts."""

from typing import cast

from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart, Streams
from orchestrator.modeling.registry import embeddings


class EmbeddingStack(nn.Module):
    """Sum of parts, optional LayerNorm, dropout, optional linear layer to the model's width.

    Parameters: ``<part type>.*`` (for example ``word.weight``), ``norm.*`` and ``projection.*``.
    """

    def __init__(self, config: EmbeddingStackConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.word_table = config.word_table
        self.part_names = tuple(part.type_name() for part in config.parts)
        inner = config.dimensions_of_parts(dimensions)
        for name, part in zip(self.part_names, config.parts, strict=True):
            self.add_module(name, embeddings.component_class(name)(part, inner))
        width = inner.hidden_size
        self.norm = nn.LayerNorm(width, eps=config.norm_eps) if config.layernorm else None
        self.dropout = nn.Dropout(config.dropout)
        sized = config.size is not None
        self.projection = nn.Linear(width, dimensions.hidden_size) if sized else None

    def forward(self, batch: Batch, past: int = 0) -> tuple[Tensor, Tensor]:
        """Embed a batch.

        Args:
            batch: The inputs.
            past: Positions that were embedded before; ``attention_mask`` covers them as well.

        Returns:
            The vectors, [B, S, D], and the mask, True at real positions, [B, past + S]; both are
            ``Streams`` for a dual model.

        Raises:
            InputError: The mask does not fit the input, or a part cannot read the batch.
        """
        first, *others = (self.get_submodule(name) for name in self.part_names)
        hidden: Tensor = first(batch, None)
        mask = self.mask(batch, hidden, past)
        if isinstance(hidden, Streams):
            return hidden, mask
        if "attention_mask" in batch:  # other parts see the first one's positions, not the input's
            batch = {**batch, "attention_mask": mask}
        for part in others:
            hidden = hidden + part(batch, hidden)
        if self.norm is not None:
            hidden = self.norm(hidden)
        hidden = self.dropout(hidden)
        return hidden if self.projection is None else self.projection(hidden), mask

    def mask(self, batch: Batch, hidden: Tensor, past: int = 0) -> Tensor:
        """Return which positions of ``hidden`` [B, S, D] are real, bool [B, past + S]."""
        first = cast(EmbeddingPart, self.get_submodule(self.part_names[0]))
        return first.mask(batch, hidden, past)
