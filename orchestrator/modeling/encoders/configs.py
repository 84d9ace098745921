"""Options of the transformer and convolution encoders. Imports without torch."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EncoderConfig, Sight
from orchestrator.modeling.registry import encoders

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
"""Names of activation functions: exact GELU, its tanh form, x*sigmoid(1.702x), ReLU, x*sigmoid(x).
"""

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A dropout rate."""


class RotaryConfig(StrictModel):
    """Rotary position embedding, the half-split layout of GPT-NeoX and LLaMA in transformers."""

    theta: PositiveFloat = 10000.0
    """Base of the wavelengths."""


class BlockOptions(StrictModel):
    """Options that transformer encoder and decoder blocks share."""

    num_layers: PositiveInt = 2
    """Number of blocks."""
    num_heads: PositiveInt = 4
    """Number of query heads."""
    num_kv_heads: PositiveInt | None = None
    """Number of key and value heads (grouped-query attention); null: as many as query heads."""
    head_size: PositiveInt | None = None
    """Width of a head; null: hidden_size / num_heads."""
    intermediate_size: PositiveInt | None = None
    """Width inside the feed-forward; null: 4 * hidden_size."""
    norm_position: Literal["post", "pre"] = "post"
    """Normalise after the residual sum (BERT) or before each sub-layer, with a final norm (GPT-2).
    """
    norm: Literal["layernorm", "rms"] = "layernorm"
    """LayerNorm or RMSNorm."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance inside each norm (BERT, ViT: 1e-12; LLaMA: 1e-6)."""
    activation: Activation = "gelu"
    """Activation of the feed-forward."""
    feed_forward: Literal["dense", "gated"] = "dense"
    """down(act(up(x))), or down(act(gate(x)) * up(x)) as in LLaMA and T5 v1.1."""
    bias: bool = True
    """Give the linear layers biases."""
    dropout: Rate = 0.1
    """Dropout rate on the output of each sub-layer."""
    attention_dropout: Rate = 0.0
    """Dropout rate on attention probabilities (BERT: 0.1); above 0, CPUs cannot fuse attention."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Fused scaled dot-product attention, or the plain formula (for tests)."""

    def size_of_head(self, dimensions: Dimensions) -> int:
        """Width of a head."""
        return self.head_size or dimensions.hidden_size // self.num_heads

    def size_of_feed_forward(self, dimensions: Dimensions) -> int:
        """Width inside the feed-forward."""
        return self.intermediate_size or 4 * dimensions.hidden_size

    def kept_values_of_blocks(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps; fitted to what autograd saves.

        Inputs of the linear layers and norms (8 vectors), both sides of the activation, and, when
        attention is not fused, scores and probabilities.
        """
        width, inner = dimensions.hidden_size, self.size_of_feed_forward(dimensions)
        values = 8 * width + (4 if self.feed_forward == "gated" else 2) * inner
        if self.dropout:
            values += 4 * width
        if self.attention == "eager" or self.attention_dropout:
            values += 3 * self.num_heads * length + 2 * width
        return values * self.num_layers

    def attention_problems(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Yield what is wrong with the numbers of heads."""
        width = dimensions.hidden_size
        if self.head_size is None and width % self.num_heads:
            yield Problem("num_heads", _does_not_divide(self.num_heads, "hidden_size", width))
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            yield Problem(
                "num_kv_heads", _does_not_divide(self.num_kv_heads, "num_heads", self.num_heads)
            )


def _does_not_divide(value: int, name: str, total: int) -> str:
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    return f"{value} does not divide {name} ({total}). Use one of {', '.join(map(str, divisors))}."


@encoders.register("orchestrator.modeling.encoders.transformer:TransformerEncoder")
class TransformerConfig(BlockOptions, EncoderConfig):
    """Blocks of self-attention and feed-forward."""

    type: Literal["transformer"] = "transformer"
    mask: Literal["bidirectional", "causal"] = "bidirectional"
    """Which positions a position may read: all (BERT) or itself and earlier ones (GPT-2)."""
    rotary: RotaryConfig | None = None
    """Rotary positions (LLaMA); null: none, positions come from the embedding."""

    @property
    def sight(self) -> Sight:
        """What an output knows of the sequence."""
        return "past" if self.mask == "causal" else "everything"

    def kept_values(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps."""
        rotated = 2 * dimensions.hidden_size * self.num_layers if self.rotary else 0
        return self.kept_values_of_blocks(dimensions, length) + rotated

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Heads must divide the width; rotary needs an even head."""
        yield from self.attention_problems(dimensions)
        head_size = self.size_of_head(dimensions)
        if self.rotary is not None and head_size % 2:
            yield Problem("rotary", f"head size {head_size} is odd. Rotary needs an even one.")


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
