"""The sum of embedding parts, the contract of a part, and the embedding of two streams.

Two streams: CLIP (Radford et al. 2021), SBERT (Reimers and Gurevych 2019).

Legend: B batch, S and T positions of the streams, D and E their widths.
"""

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions, embeddings
from orchestrator.modeling.embeddings.stack_config import DualEmbeddingConfig, EmbeddingStackConfig
from orchestrator.modeling.interfaces import Batch, Streams, all_real, first_stream, second_stream


class EmbeddingPart(nn.Module, ABC):
    """One summand of an embedding."""

    @abstractmethod
    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return this part's summand.

        Args:
            batch: The inputs.
            total: Sum of the parts before this one, [B, S, D]; None for the first part, which
                decides S.

        Returns:
            [B, S, D], or [1, S, D] from a part that depends on positions alone.
        """

    def mask(self, batch: Batch, hidden: Tensor, past: int = 0) -> Tensor:
        """Return which positions are real, bool [B, past + S]; the first part of a stack is asked.

        By default ``attention_mask``, or all if the batch has none. A part whose positions are not
        those of its input (sound, images) overrides it.

        Args:
            batch: The inputs.
            hidden: The sum of all parts, [B, S, D].
            past: Positions that were embedded before.

        Raises:
            InputError: ``attention_mask`` does not fit.
        """
        expected = (len(hidden), past + hidden.shape[1])
        mask = batch.get("attention_mask")
        if mask is None:
            return all_real(*expected, hidden.device)
        if mask.shape != expected:
            raise InputError(
                f"attention_mask is {list(mask.shape)}, the input has [batch, positions] "
                f"{list(expected)}. They must be equal."
            )
        return mask.bool()


class EmbeddingStack(nn.Module):
    """Sum of parts, optional LayerNorm, dropout, optional linear layer to the model's width.

    The linear layer stands last, or first (``projection``).

    Parameters: ``<part type>.*`` (for example ``word.weight``), ``norm.*``, ``projection.*`` and
    ``registers`` [R, D].
    """

    def __init__(self, config: EmbeddingStackConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.word_table = config.word_table
        self.part_names = tuple(part.type_name() for part in config.parts)
        inner = config.dimensions_of_parts(dimensions)
        for name, part in zip(self.part_names, config.parts, strict=True):
            self.add_module(name, embeddings.component_class(name)(part, inner))
        width, wide = inner.hidden_size, dimensions.hidden_size
        first = self.project_first = config.projection == "first"
        self.norm = None
        if config.layernorm:
            normed = wide if first else width
            self.norm = nn.LayerNorm(normed, eps=config.norm_eps, bias=config.norm_bias)
        self.dropout = nn.Dropout(config.dropout)
        sized = config.size is not None and config.projection != "none"
        self.projection = nn.Linear(width, wide, bias=not first) if sized else None
        registers = torch.empty(config.registers, wide) if config.registers else None
        self.registers = None if registers is None else nn.Parameter(registers)

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
        if self.projection is not None and self.project_first:
            hidden = self.projection(hidden)
        if self.norm is not None:
            hidden = self.norm(hidden)
        if self.registers is not None:
            own = self.registers.expand(len(hidden), -1, -1)
            hidden = torch.cat([hidden[:, :1], own, hidden[:, 1:]], dim=1)
            mask = self.mask(batch, hidden, past)
        hidden = self.dropout(hidden)
        if self.projection is not None and not self.project_first:
            hidden = self.projection(hidden)
        return hidden, mask

    def mask(self, batch: Batch, hidden: Tensor, past: int = 0) -> Tensor:
        """Return which positions of ``hidden`` [B, S, D] are real, bool [B, past + S]."""
        first = cast(EmbeddingPart, self.get_submodule(self.part_names[0]))
        return first.mask(batch, hidden, past)


class DualEmbedding(EmbeddingPart):
    """Two stacks, or one that reads both streams.

    Parameters: ``first.*`` and, if not tied, ``second.*``; ``first_norm`` and ``second_norm`` of
    streams that are normalized after their stack.
    """

    Config = DualEmbeddingConfig

    def __init__(self, config: DualEmbeddingConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.first = EmbeddingStack(config.first, dimensions)
        own = None if config.tie else EmbeddingStack(config.of_second, dimensions.of_second)
        self.second = own
        widths = (dimensions.hidden_size, dimensions.of_second.hidden_size)
        norms = [
            nn.LayerNorm(width, eps=config.norm_eps) if name in config.norms else None
            for name, width in zip(("first", "second"), widths, strict=True)
        ]
        self.first_norm, self.second_norm = norms

    def forward(  # type: ignore[override]
        self, batch: Batch, total: Tensor | None
    ) -> Streams:
        """Return [B, S, D] and [B, T, E].

        Raises:
            InputError: The batch has nothing for the second stream, or a stack cannot read it.
        """
        first, _ = self.first(first_stream(batch))
        second, _ = self._stack_of_second()(second_stream(batch))
        if self.first_norm is not None:
            first = self.first_norm(first)
        if self.second_norm is not None:
            second = self.second_norm(second)
        return Streams(first, second)

    def mask(  # type: ignore[override]
        self, batch: Batch, hidden: Streams, past: int = 0
    ) -> Streams:
        """Return which positions are real, bool [B, S] and [B, T]."""
        return Streams(
            self.first.mask(first_stream(batch), hidden.first, past),
            self._stack_of_second().mask(second_stream(batch), hidden.second, past),
        )

    def _stack_of_second(self) -> EmbeddingStack:
        return self.first if self.second is None else self.second
