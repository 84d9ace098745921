"""Options of the transformer and convolution encoders. Imports without torch."""

from collections.abc import Iterator
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EncoderConfig, Sight
from orchestrator.modeling.encoders.block_options import BlockOptions, PatchBiasConfig, Rate
from orchestrator.modeling.encoders.rotary_configs import RotaryConfig
from orchestrator.modeling.registry import encoders


@encoders.register("orchestrator.modeling.encoders.transformer:TransformerEncoder")
class TransformerConfig(BlockOptions, EncoderConfig):
    """Blocks of self-attention and feed-forward."""

    type: Literal["transformer"] = "transformer"
    mask: Literal["bidirectional", "causal", "prefix"] = "bidirectional"
    """Which positions a position may read: all (BERT), itself and earlier ones (GPT-2), or these
    and those that the batch marks in `prefix_mask` (UniLM)."""
    rotary: RotaryConfig | None = None
    """Rotary positions (LLaMA); null: none, positions come from the embedding."""
    window_from: NonNegativeInt = 0
    """First block with the window; earlier ones read everything (Qwen2)."""
    final_norm: bool = True
    """Normalise after the last pre-norm block (false in BEiT's classifier)."""
    drop_path: Rate = 0.0
    """Rate at which a sample skips a sub-layer of the last block while training; it grows from 0 in
    the first one (stochastic depth; BEiT: 0.1)."""

    @property
    def sight(self) -> Sight:
        """What an output knows of the sequence; a prefix is never predicted."""
        return "everything" if self.mask == "bidirectional" else "past"

    def kept_values(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps."""
        rotated = 2 * dimensions.hidden_size * self.num_layers if self.rotary else 0
        return self.kept_values_of_blocks(dimensions, length) + rotated

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Heads must divide the width; rotary needs an even head."""
        yield from self.block_problems(dimensions)
        head_size = self.size_of_head(dimensions)
        if self.rotary is not None and head_size % 2:
            yield Problem("rotary", f"head size {head_size} is odd. Rotary needs an even one.")
        if isinstance(self.position_bias, PatchBiasConfig) and self.mask != "bidirectional":
            yield Problem("position_bias", "patches have no order. Use `mask: bidirectional`.")
        if self.window_from and (self.window is None or self.window_from >= self.num_layers):
            yield Problem("window_from", "no block has a window. Set `window`, or leave it out.")
        if self.norm_position == "post" and not self.final_norm:
            yield Problem(
                "final_norm", "is for pre-norm blocks; these end with a norm. Set it true."
            )
        if self.shared_layers and self.drop_path:
            yield Problem("drop_path", "grows from block to block, but all are one. Set it to 0.")


@encoders.register("orchestrator.modeling.encoders.gatedcnn:GatedCnnEncoder")
class GatedCnnConfig(EncoderConfig):
    """Gated convolutions (Dauphin et al. 2017)."""

    type: Literal["gatedcnn"] = "gatedcnn"
    num_layers: PositiveInt = 4
    """Number of gated convolutions."""
    kernel_size: PositiveInt = 4
    """Positions a convolution reads."""
    block_size: PositiveInt = 2
    """Layers a residual connection spans."""
    mask: Literal["causal", "bidirectional"] = "causal"
    """Read the position itself and earlier ones, or both sides."""
    dropout: Rate = 0.0
    """Dropout rate on the output of each convolution."""

    @property
    def sight(self) -> Sight:
        """What an output knows of the sequence."""
        return "past" if self.mask == "causal" else "everything"

    def kept_values(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps: input, value and gate of each layer."""
        del length
        return (4 if self.dropout else 3) * dimensions.hidden_size * self.num_layers
