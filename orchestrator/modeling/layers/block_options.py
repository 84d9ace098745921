"""Options of transformer blocks and rotary positions. Imports without torch."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, inside
from orchestrator.modeling.layers.bias_options import DisentangledConfig, PositionBiasConfig

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
"""Names of activation functions: exact GELU, its tanh form, x*sigmoid(1.702x), ReLU, x*sigmoid(x).
"""

LocalActivation = Literal["tanh"] | Activation
"""Activations after a convolution."""

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A dropout rate."""

Projection = Literal["query", "key", "value", "output"]
"""The four linear layers of attention."""


FeedForwardLayer = Literal["up", "gate", "down"]
"""The linear layers of a feed-forward; `gate` only where it is gated."""


class ConvolutionConfig(StrictModel):
    """A convolution over the embedded input, added to the first block's output (DeBERTa-v2)."""

    kernel_size: PositiveInt = 3
    """Positions that an output reads; odd."""
    groups: PositiveInt = 1
    """Groups of channels that are convolved each by itself."""
    activation: LocalActivation = "tanh"
    """Activation after it (DeBERTa-v2 xlarge: gelu)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Kernels have a middle; groups divide the width."""
        if self.kernel_size % 2 == 0:
            yield Problem("kernel_size", f"{self.kernel_size} is even. Use an odd one.")
        if dimensions.hidden_size % self.groups:
            width = dimensions.hidden_size
            yield Problem("groups", _does_not_divide(self.groups, "hidden_size", width))


class ExpertsConfig(StrictModel):
    """Several feed-forwards; each token passes through a few of them (Mixtral)."""

    num_experts: int = Field(default=8, ge=2)
    """Feed-forwards of a block."""
    top_k: PositiveInt = 2
    """Feed-forwards that a token passes through."""


class BlockOptions(StrictModel):
    """Options that transformer encoder and decoder blocks share."""

    num_layers: PositiveInt = 2
    """Number of blocks."""
    shared_layers: bool = False
    """Apply one and the same block num_layers times (ALBERT)."""
    num_heads: PositiveInt = 4
    """Number of query heads."""
    num_kv_heads: PositiveInt | None = None
    """Number of key and value heads (grouped-query attention); null: as many as query heads."""
    head_size: PositiveInt | None = None
    """Width of a head; null: hidden_size / num_heads."""
    intermediate_size: PositiveInt | None = None
    """Width inside the feed-forward; null: 4 * hidden_size."""
    norm_position: Literal["post", "pre", "both", "output"] = "post"
    """Normalize after the residual sum (BERT); or, with a final norm, before each sub-layer
    (GPT-2), before and after it (Gemma 2), or only its output before the sum (OLMo 2)."""
    norm: Literal["layernorm", "rms", "rms_offset"] = "layernorm"
    """LayerNorm, RMSNorm (LLaMA; T5's norm is the same), or RMSNorm with factors 1 + weight
    (Gemma)."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance inside each norm (BERT, ViT: 1e-12; LLaMA, T5: 1e-6)."""
    norm_bias: bool = True
    """Give each LayerNorm a bias (ModernBERT: none); RMSNorm never has one."""
    activation: Activation = "gelu"
    """Activation of the feed-forward."""
    feed_forward: Literal["dense", "gated"] = "dense"
    """down(act(up(x))), or down(act(gate(x)) * up(x)) as in LLaMA and T5 v1.1."""
    experts: ExpertsConfig | None = None
    """Several feed-forwards with a router in place of one; null: one."""
    bias: bool = True
    """Give the linear layers biases."""
    attention_bias: tuple[Projection, ...] | None = None
    """Linear layers of attention with a bias (Qwen2: query, key, value; BEiT, Whisper: no key);
    null: all or none, as `bias` says."""
    attention_scale: PositiveFloat | None = None
    """Factor on attention scores; null: 1 / sqrt(head size), with `{type: disentangled}` also
    divided by the root of the number of terms. T5: 1."""
    feed_forward_bias: tuple[FeedForwardLayer, ...] | None = None
    """Linear layers of the feed-forward with a bias (GTE: down); null: all or none, as `bias`
    says."""
    query_key_norm: Literal["none", "head", "projection"] = "none"
    """Normalize queries and keys before they are rotated: each head (Qwen3, Gemma 3), or all heads
    together (OLMo 2)."""
    attention_softcap: PositiveFloat | None = None
    """Largest attention score c: each becomes c * tanh(score / c) (Gemma 2: 50); null: no limit.
    No fused kernel does that, so attention is computed by its formula."""
    position_bias: Annotated[PositionBiasConfig, Field(discriminator="type")] | None = None
    """Added to attention scores by distance: `{type: t5}`, `{type: alibi}`, `{type: patches, ...}`,
    `{type: disentangled}`; null: nothing."""
    window: PositiveInt | None = None
    """Positions that a position may look back, itself included (Mistral), and as many ahead where
    both sides are read (65 for ModernBERT's local attention of 128); null: all."""
    layer_scale: PositiveFloat | None = None
    """First value of a learned factor for each channel of a sub-layer's output (BEiT); null: none.
    """
    dropout: Rate = 0.1
    """Dropout rate on the output of each sub-layer."""
    activation_dropout: Rate = 0.0
    """Dropout rate inside the feed-forward (T5, BART, wav2vec 2.0: 0.1)."""
    attention_dropout: Rate = 0.0
    """Dropout rate on attention probabilities (BERT: 0.1); above 0, CPUs cannot fuse attention."""
    attention: Literal["sdpa", "eager", "unpadded"] = "sdpa"
    """Fused scaled dot-product attention; the plain formula (for tests); or the fused kernel over
    real positions alone, where a batch on a CPU has padding."""

    def size_of_head(self, dimensions: Dimensions) -> int:
        """Width of a head."""
        return self.head_size or dimensions.hidden_size // self.num_heads

    def scale_of_attention(self, dimensions: Dimensions) -> float:
        """Factor on attention scores."""
        bias, size = self.position_bias, self.size_of_head(dimensions)
        terms = 1 + bias.num_terms if isinstance(bias, DisentangledConfig) else 1
        return self.attention_scale or (size * terms) ** -0.5

    def reads_of_query(self, block: int, length: int) -> int:
        """Vectors of a head's size that one query of a head meets: keys, values, distances."""
        bias, keys = self.position_bias, self.keys_of(block, length)
        if isinstance(bias, DisentangledConfig):
            return 2 * keys + bias.num_terms * bias.rows_in_use(length)
        return 2 * keys

    def size_of_feed_forward(self, dimensions: Dimensions) -> int:
        """Width inside the feed-forward."""
        return self.intermediate_size or 4 * dimensions.hidden_size

    def has_bias(self, projection: Projection) -> bool:
        """Return whether a linear layer of attention has a bias."""
        return self.bias if self.attention_bias is None else projection in self.attention_bias

    def feed_forward_biases(self) -> list[FeedForwardLayer]:
        """Return the linear layers of the feed-forward that have a bias."""
        layers: list[FeedForwardLayer] = ["up", "down"]
        if self.feed_forward == "gated":
            layers.append("gate")
        if self.feed_forward_bias is None:
            return layers if self.bias else []
        return [layer for layer in layers if layer in self.feed_forward_bias]

    @property
    def fuses_attention(self) -> bool:
        """Whether attention is one kernel, which keeps no scores."""
        return self.attention != "eager" and self.attention_softcap is None

    def window_of(self, block: int) -> int | None:
        """Window of a block; None: it reads everything."""
        del block
        return self.window

    def keys_of(self, block: int, length: int) -> int:
        """Number of positions that a position of a block reads, at most."""
        return min(length, self.window_of(block) or length)

    def saved_activations_of_blocks(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps; fitted to what autograd saves.

        Inputs of the linear layers and norms (8 vectors), both sides of the activation for each
        feed-forward that a token passes through, and, when attention is not fused, scores and
        probabilities.
        """
        width, inner = dimensions.hidden_size, self.size_of_feed_forward(dimensions)
        passes = 1 if self.experts is None else self.experts.top_k
        values = 8 * width + (4 if self.feed_forward == "gated" else 2) * inner * passes
        if self.dropout:
            values += 4 * width
        if self.activation_dropout:
            values += inner
        if self.query_key_norm != "none":
            values += 2 * width
        if self.norm_position == "both":
            values += 2 * width
        disentangled = isinstance(self.position_bias, DisentangledConfig)
        if not self.fuses_attention or self.attention_dropout or disentangled:
            values += 3 * self.num_heads * length + 2 * width
        return values * self.num_layers

    def block_problems(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Yield what does not fit the model's sizes."""
        width = dimensions.hidden_size
        if self.head_size is None and width % self.num_heads:
            yield Problem("num_heads", _does_not_divide(self.num_heads, "hidden_size", width))
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            yield Problem(
                "num_kv_heads", _does_not_divide(self.num_kv_heads, "num_heads", self.num_heads)
            )
        if self.norm != "layernorm" and not self.norm_bias:
            yield Problem("norm_bias", "RMSNorm never has a bias. Leave it out.")
        if isinstance(self.position_bias, DisentangledConfig):
            yield from inside("position_bias", self.position_bias.check())
            kv_heads = self.num_kv_heads or self.num_heads
            for name, plain in (
                ("num_kv_heads", kv_heads == self.num_heads),
                ("query_key_norm", self.query_key_norm == "none"),
                ("attention_softcap", self.attention_softcap is None),
            ):
                if not plain:
                    yield Problem(name, "is not for disentangled attention. Leave it out.")
        yield from self._feed_forward_problems()

    def _feed_forward_problems(self) -> Iterator[Problem]:
        """Yield what a feed-forward, or several, cannot have."""
        if self.feed_forward_bias is not None and self.experts is not None:
            yield Problem("feed_forward_bias", "experts have no biases. Leave it out.")
        if "gate" in (self.feed_forward_bias or ()) and self.feed_forward == "dense":
            yield Problem("feed_forward_bias", "there is no gate. Leave `gate` out.")
        if self.experts is not None and self.activation_dropout:
            yield Problem("activation_dropout", "is not for experts. Set it to 0.")
        if self.experts is not None and self.experts.top_k > self.experts.num_experts:
            yield Problem(
                "experts.top_k",
                f"{self.experts.top_k} is more than num_experts ({self.experts.num_experts}). "
                "Use a smaller one.",
            )


def _does_not_divide(value: int, name: str, total: int) -> str:
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    return f"{value} does not divide {name} ({total}). Use one of {', '.join(map(str, divisors))}."


Factor = Annotated[float, Field(ge=1.0)]
"""Maximum length of sequences, in lengths of the original model."""


class LinearScaling(StrictModel):
    """Divide every position by the factor (Chen et al. 2023)."""

    type: Literal["linear"] = "linear"
    factor: Factor
    """Maximum length of sequences, in lengths of the original model."""


class Llama3Scaling(StrictModel):
    """Slow down long waves only (LLaMA 3.1)."""

    type: Literal["llama3"] = "llama3"
    factor: Factor = 8.0
    """Factor by which waves are slowed down that do not fit the original length."""
    low_freq_factor: PositiveFloat = 1.0
    """Waves that fit fewer times than this into the original length are slowed down fully."""
    high_freq_factor: PositiveFloat = 4.0
    """Waves that fit more often than this stay as they are."""
    original_max_position_embeddings: PositiveInt = 8192
    """Length that the model was first trained on, in positions."""


class YarnScaling(StrictModel):
    """Slow down long waves, and sharpen attention (YaRN, Peng et al. 2023)."""

    type: Literal["yarn"] = "yarn"
    factor: Factor
    """Maximum length of sequences, in lengths of the original model."""
    original_max_position_embeddings: PositiveInt
    """Length that the model was first trained on, in positions."""
    attention_factor: PositiveFloat | None = None
    """Factor on rotated queries and keys; null: 0.1 * ln(factor) + 1."""
    mscale: PositiveFloat | None = None
    """With `mscale_all_dim`: attention_factor is the ratio of two such terms (DeepSeek)."""
    mscale_all_dim: PositiveFloat | None = None
    """See `mscale`."""
    beta_fast: PositiveFloat = 32.0
    """Waves that turn more often than this in the original length stay as they are."""
    beta_slow: PositiveFloat = 1.0
    """Waves that turn less often than this are slowed down fully."""
    truncate: bool = True
    """Round the channels between which the two blend."""


class LongRopeScaling(StrictModel):
    """Divide each wave by a factor of its own (LongRoPE, Ding et al. 2024; Phi-3)."""

    type: Literal["longrope"] = "longrope"
    short_factor: tuple[PositiveFloat, ...]
    """Factors, one for each pair of rotated channels, of batches without a position beyond the
    original length (as in transformers, the longest row decides for all)."""
    long_factor: tuple[PositiveFloat, ...]
    """The same for batches with a position beyond it."""
    original_max_position_embeddings: int = Field(ge=2)
    """Length that the model was first trained on, in positions."""
    factor: Factor
    """Maximum length of sequences, in lengths of the original model."""
    attention_factor: PositiveFloat | None = None
    """Factor on rotated queries and keys; null: sqrt(1 + ln(factor) / ln(original length))."""


Scaling = Annotated[
    LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling, Field(discriminator="type")
]
"""Change of the waves for sequences longer than those of the original model."""


class RotaryConfig(StrictModel):
    """Rotary position embedding (Su et al. 2021)."""

    theta: PositiveFloat = 10000.0
    """Base of the wavelengths."""
    layout: Literal["halves", "pairs"] = "halves"
    """Channel i turns together with i + d/2 (LLaMA in transformers, GPT-NeoX), or with its
    neighbor (the original, LLaMA as released by Meta)."""
    share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of a head's channels that are rotated, the first ones (GPT-NeoX, Phi-3: partial
    rotary); the others carry no position."""
    scaling: Scaling | None = None
    """Waves for longer sequences: `{type: linear, ...}`, `{type: llama3, ...}`, `{type: yarn,
    ...}`, `{type: longrope, ...}`; null: as they are."""

    def channels(self, head_size: int) -> int:
        """Return how many channels of a head are rotated."""
        return int(head_size * self.share)

    def check(self, head_size: int) -> Iterator[Problem]:
        """Yield what does not fit a head; channels turn in pairs."""
        if head_size % 2:
            yield Problem("", f"head size {head_size} is odd. Rotary needs an even one.")
            return
        channels, scaling = self.channels(head_size), self.scaling
        if channels % 2:
            yield Problem(
                "share",
                f"{self.share} of head size {head_size} is {channels} channels. Rotary turns "
                "pairs: choose a share that gives an even number.",
            )
        elif isinstance(scaling, LongRopeScaling):
            for name in ("short_factor", "long_factor"):
                if (found := len(getattr(scaling, name))) != channels // 2:
                    yield Problem(
                        f"scaling.{name}",
                        f"{found} factors for {channels // 2} pairs of channels. Give one each.",
                    )
