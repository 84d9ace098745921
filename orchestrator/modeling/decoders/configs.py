"""Options of the decoders. Imports without torch."""

from collections.abc import Iterator
from typing import Literal

from orchestrator.errors import Problem
from orchestrator.modeling.component import DecoderConfig, Dimensions
from orchestrator.modeling.encoders.configs import BlockOptions
from orchestrator.modeling.registry import decoders


@decoders.register("orchestrator.modeling.decoders.transformer:TransformerDecoder")
class TransformerDecoderConfig(BlockOptions, DecoderConfig):
    """Blocks of causal self-attention, attention over the encoder's output, and feed-forward."""

    type: Literal["transformer"] = "transformer"

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Heads must divide the width."""
        yield from self.attention_problems(dimensions)
