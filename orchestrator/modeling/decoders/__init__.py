"""Decoders: read the encoder's output through cross-attention. The options import without torch."""

from collections.abc import Iterator
from typing import Literal

from orchestrator.errors import Problem
from orchestrator.modeling.component import DecoderConfig, Dimensions, decoders
from orchestrator.modeling.layers.bias_options import DisentangledConfig, PatchBiasConfig
from orchestrator.modeling.layers.block_options import BlockOptions


@decoders.register("orchestrator.modeling.decoders.transformer:TransformerDecoder")
class TransformerDecoderConfig(BlockOptions, DecoderConfig):
    """Blocks of causal self-attention, attention over the encoder's output, and feed-forward."""

    type: Literal["transformer"] = "transformer"

    def saved_activations(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps; cross-attention adds 6 vectors."""
        cross = 6 * dimensions.hidden_size * self.num_layers
        return self.saved_activations_of_blocks(dimensions, length) + cross

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Heads must divide the width; a decoder has neither patches nor a layer scale."""
        yield from self.block_problems(dimensions)
        if isinstance(self.position_bias, PatchBiasConfig):
            yield Problem("position_bias", "patches have no order; a decoder needs one. Use t5.")
        if isinstance(self.position_bias, DisentangledConfig):
            yield Problem("position_bias", "disentangled attention is for encoders. Use t5.")
        if self.layer_scale is not None:
            yield Problem("layer_scale", "is for encoders. Remove it.")
        if self.query_key_norm != "none":
            yield Problem("query_key_norm", "is for encoders. Remove it.")
        if self.norm_position not in ("post", "pre"):
            yield Problem("norm_position", f"{self.norm_position!r} is for encoders. Use pre.")
        if self.attention == "unpadded":
            yield Problem("attention", "unpadded is for encoders. Use sdpa.")
        if self.attention_softcap is not None:
            yield Problem("attention_softcap", "is for encoders. Remove it.")
