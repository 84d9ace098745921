"""Options of the encoders. Imports without torch."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from orchestrator.config.registry import Choice
from orchestrator.errors import Problem
from orchestrator.modeling.component import (
    Dimensions,
    EncoderConfig,
    Visibility,
    encoders,
    inside,
    tie_problems,
)
from orchestrator.modeling.layers.bias_options import DisentangledConfig, PatchBiasConfig
from orchestrator.modeling.layers.block_options import (
    BlockOptions,
    ConvolutionConfig,
    Rate,
    RotaryConfig,
)
from orchestrator.modeling.layers.chunk_sizes import chunk_of

Blocks = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
"""Numbers of blocks, ascending; the first one is 0."""


@encoders.register("orchestrator.modeling.encoders.transformer:TransformerEncoder")
class TransformerConfig(BlockOptions, EncoderConfig):
    """Blocks of self-attention and feed-forward."""

    type: Literal["transformer"] = "transformer"
    mask: Literal["bidirectional", "causal", "prefix"] = "bidirectional"
    """Positions that a position may read: all (BERT), itself and earlier ones (GPT-2), or the
    latter and those that the batch marks in `prefix_mask` (UniLM)."""
    rotary: RotaryConfig | None = None
    """Rotary positions (LLaMA); null: none, positions come from the embedding."""
    rotary_layers: Blocks | None = None
    """Blocks that rotate queries and keys, counted from 0; null: all (SmolLM3 leaves some out)."""
    window_from: NonNegativeInt = 0
    """First block with the window; earlier ones read everything (Qwen2)."""
    window_layers: Blocks | None = None
    """Blocks with the window, counted from 0 (ModernBERT, Gemma 3); null: all from `window_from`.
    """
    window_rotary: RotaryConfig | None = None
    """Rotary positions of the blocks with the window (ModernBERT: theta 10000); null: as in the
    others."""
    first_norm: bool = True
    """Normalize before the attention of the first block too (false in ModernBERT)."""
    final_norm: bool = True
    """Normalize after the last pre-norm block (false in BEiT's classifier)."""
    convolution: ConvolutionConfig | None = None
    """A convolution beside the first block (DeBERTa-v2 xlarge); null: none."""
    parallel: bool = False
    """Let attention and feed-forward of a pre-norm block read the same input, each by its norm, and
    add both outputs to it (GPT-NeoX)."""
    residual_attention: bool = False
    """Add the attention scores of each block to those of the next one (RealFormer). No fused kernel
    keeps scores, so attention is computed by its formula."""
    drop_path: Rate = 0.0
    """Rate at which a sample skips a sub-layer of the last block while training; it grows from 0 in
    the first one (stochastic depth; BEiT: 0.1)."""

    @property
    def visibility(self) -> Visibility:
        """Inputs that an output depends on; a prefix is never predicted."""
        return "everything" if self.mask == "bidirectional" else "past"

    @property
    def fuses_attention(self) -> bool:
        """Whether attention is one kernel, which keeps no scores."""
        return super().fuses_attention and not self.residual_attention

    def saved_activations(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps."""
        blocks = sum(self.rotary_of(block) is not None for block in range(self.num_layers))
        rotated = 2 * dimensions.hidden_size * blocks
        plain = self.saved_activations_of_blocks(dimensions, length) + rotated
        return plain + sum(self._saved_by_chunks(dimensions, length))

    def _saved_by_chunks(self, dimensions: Dimensions, length: int) -> Iterator[int]:
        """Yield for each block that is cut: keys and values of overlapping chunks, and an answer.

        One copy of keys and values is in every estimate.
        """
        both = self.mask == "bidirectional"
        for block in range(self.num_layers):
            window = self.window_of(block)
            size = None if window is None else chunk_of(window, length, both_sides=both)
            if window is None or size is None or not self.cuts or self.mask == "prefix":
                continue
            overlap = (2 if both else 1) * (window - 1) / size
            yield round((2 * overlap + 1) * dimensions.hidden_size)

    @property
    def cuts(self) -> bool:
        """Whether long sequences with a window may be cut into chunks, which share no scores."""
        return self.position_bias is None and not self.residual_attention

    def keys_of(self, block: int, length: int) -> int:
        """Number of positions that a position of a block reads, at most."""
        window = self.window_of(block)
        if window is None:
            return length
        return min(length, window if self.mask == "causal" else 2 * window - 1)

    def window_of(self, block: int) -> int | None:
        """Window of a block; None: it reads everything."""
        if self.window_layers is None:
            return self.window if block >= self.window_from else None
        return self.window if block in self.window_layers else None

    def rotary_of(self, block: int) -> RotaryConfig | None:
        """Rotary positions of a block; None: it has none."""
        if self.rotary_layers is not None and block not in self.rotary_layers:
            return None
        has_window = self.window_of(block) is not None
        return (self.window_rotary if has_window else None) or self.rotary

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Heads must divide the width; rotary needs an even head."""
        yield from self.block_problems(dimensions)
        for name, rotary in (("rotary", self.rotary), ("window_rotary", self.window_rotary)):
            if rotary is not None:
                yield from inside(name, rotary.check(self.size_of_head(dimensions)))
        if self.convolution is not None:
            yield from inside("convolution", self.convolution.check(dimensions))
        yield from self._both_sides_problems()
        yield from self._pattern_problems()
        if self.norm_position == "post" and not self.final_norm:
            yield Problem(
                "final_norm", "is for pre-norm blocks; these end with a norm. Set it true."
            )
        before = self.norm_position in ("pre", "both")
        yield from self._unpadded_problems()
        if not self.first_norm and (not before or self.shared_layers):
            yield Problem(
                "first_norm", "is for pre-norm blocks that share no weights. Set it true."
            )
        if self.parallel and self.norm_position != "pre":
            yield Problem("parallel", "is for `norm_position: pre`. Set it false.")
        if self.residual_attention and self.attention_softcap is not None:
            yield Problem("attention_softcap", "is not for residual attention. Leave one out.")
        if self.residual_attention and isinstance(self.position_bias, DisentangledConfig):
            yield Problem("residual_attention", "is not for disentangled attention. Set it false.")
        if self.shared_layers and self.drop_path:
            yield Problem("drop_path", "grows from block to block, but all are one. Set it to 0.")

    def _unpadded_problems(self) -> Iterator[Problem]:
        """Sequences in one row read themselves alone, and nothing counts rows."""
        if self.attention != "unpadded":
            return
        for name, plain in (
            ("mask", self.mask == "bidirectional"),
            ("position_bias", self.position_bias is None),
            ("convolution", self.convolution is None),
            ("experts", self.experts is None),
            ("drop_path", not self.drop_path),
        ):
            if not plain:
                yield Problem(name, "is not for `attention: unpadded`. Use sdpa.")

    def _pattern_problems(self) -> Iterator[Problem]:
        """Blocks that are named must exist, and what they are named for too."""
        if self.window_from and (self.window is None or self.window_from >= self.num_layers):
            yield Problem("window_from", "no block has a window. Set `window`, or leave it out.")
        if self.window_from and self.window_layers is not None:
            yield Problem("window_from", "window_layers names the blocks. Leave one of them out.")
        for name, given in (("window", self.window), ("rotary", self.rotary)):
            blocks: tuple[int, ...] | None = getattr(self, f"{name}_layers")
            if blocks is None:
                continue
            if given is None:
                yield Problem(f"{name}_layers", f"there is no {name}. Set `{name}` too.")
            if list(blocks) != sorted({*blocks}) or blocks[-1] >= self.num_layers:
                yield Problem(
                    f"{name}_layers",
                    f"{list(blocks)} must be ascending numbers of blocks, from 0 to "
                    f"{self.num_layers - 1}.",
                )
        if self.window_rotary is not None and None in (self.window, self.rotary):
            yield Problem("window_rotary", "needs `window` and `rotary`. Set them too.")

    def _both_sides_problems(self) -> Iterator[Problem]:
        """Some parts read both sides of a position."""
        if self.rotary is not None and isinstance(self.position_bias, DisentangledConfig):
            yield Problem("rotary", "is not for disentangled attention. Leave one of them out.")
        if self.mask == "bidirectional":
            return
        if isinstance(self.position_bias, PatchBiasConfig):
            yield Problem("position_bias", "patches have no order. Use `mask: bidirectional`.")
        if isinstance(self.position_bias, DisentangledConfig):
            yield Problem("position_bias", "distances have two sides. Use `mask: bidirectional`.")
        if self.convolution is not None:
            yield Problem("convolution", "reads both sides. Use `mask: bidirectional`.")


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
    residual_from: Literal["input", "first_layer"] = "input"
    """Begin the first residual connection before the first layer, or after it (TencentPretrain)."""
    input_size: PositiveInt | None = None
    """Width of the vectors that the first layer reads, that of an embedding without projection;
    null: hidden_size."""
    dropout: Rate = 0.0
    """Dropout rate on the output of each convolution."""

    @property
    def visibility(self) -> Visibility:
        """Inputs that an output depends on."""
        return "past" if self.mask == "causal" else "everything"

    def saved_activations(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps: input, value and gate of each layer."""
        del length
        return (4 if self.dropout else 3) * dimensions.hidden_size * self.num_layers

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """A residual connection over the first layer needs its input as wide as its output."""
        other = self.input_size not in (None, dimensions.hidden_size)
        if other and self.residual_from == "input":
            yield Problem(
                "residual_from",
                f"adds vectors of {self.input_size} to those of {dimensions.hidden_size}. Use "
                "first_layer.",
            )


Single = Annotated[EncoderConfig, Choice(encoders)]
"""An encoder: a name or a mapping with ``type``."""


@encoders.register("orchestrator.modeling.encoders.dual:DualEncoder")
class DualEncoderConfig(EncoderConfig):
    """Encode two streams, each by its own encoder or both by one."""

    two_streams: ClassVar[bool] = True
    type: Literal["dual"] = "dual"
    first: Single = TransformerConfig()
    """Encoder of the first stream."""
    second: Single | None = None
    """Encoder of the second stream; null: like the first."""
    tie: bool = False
    """Use the first stream's encoder for both (SBERT)."""

    @property
    def of_second(self) -> EncoderConfig:
        """The second stream's options."""
        return self.first if self.second is None else self.second

    def saved_activations(self, dimensions: Dimensions, length: int) -> int:
        """Values per position of both streams that the backward pass keeps."""
        return self.first.saved_activations(dimensions, length) + self.of_second.saved_activations(
            dimensions.of_second, length
        )

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Each encoder must fit its stream's sizes; tied ones are one."""
        yield from inside("first", self.first.check(dimensions))
        if self.second is not None or dimensions.second is not None:
            yield from inside("second", self.of_second.check(dimensions.of_second))
        if self.tie:
            yield from tie_problems(dimensions, same_options=self.second is None)
        for name, encoder in (("first", self.first), ("second", self.of_second)):
            if encoder.two_streams:
                yield Problem(f"{name}.type", "'dual' reads two streams. Name a single encoder.")
            if getattr(encoder, "input_size", None) is not None:
                yield Problem(f"{name}.input_size", "is for a single stream. Remove it.")
