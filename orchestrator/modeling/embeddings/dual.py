"""Embedding of two streams (CLIP: Radford et al. 2021; SBERT: Reimers and Gurevych 2019).

Legend: B batch, S and T positions of the streams, D and E their widths.
"""

from torch import Tensor

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.dual_configs import DualEmbeddingConfig
from orchestrator.modeling.embeddings.stack import EmbeddingStack
from orchestrator.modeling.interfaces import Batch, EmbeddingPart, Streams
from orchestrator.modeling.layers.streams import first_stream, second_stream


class DualEmbedding(EmbeddingPart):
    """Two stacks, or one that reads both streams.

    Parameters: ``first.*`` and, if not tied, ``second.*``.
    """

    Config = DualEmbeddingConfig

    def __init__(self, config: DualEmbeddingConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.first = EmbeddingStack(config.first, dimensions)
        own = None if config.tie else EmbeddingStack(config.of_second, dimensions.of_second)
        self.second = own

    def forward(  # type: ignore[override]
        self, batch: Batch, total: Tensor | None
    ) -> Streams:
        """Return [B, S, D] and [B, T, E].

        Raises:
            InputError: The batch has nothing for the second stream, or a stack cannot read it.
        """
        first, _ = self.first(first_stream(batch))
        second, _ = self._stack_of_second()(second_stream(batch))
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
