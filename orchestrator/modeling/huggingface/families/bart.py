"""BART: transformers' ``BartForConditionalGeneration``; rows and values that its relatives share.

PEGASUS, Marian, Speech2Text and Whisper have BART's names and options, with other positions and
places of the norms. Dropping whole layers in training (``encoder_layerdrop``,
``decoder_layerdrop``) has no counterpart here. ``final_logits_bias``, a buffer there, is the bias
of our output layer; where that has none, the file lacks it and the class fills in zeros, and their
config says so by a key that only we read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from orchestrator.errors import InputError
from orchestrator.modeling.component import DecoderConfig, Dimensions, EmbeddingConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.embeddings.configs import PosConfig, SinusoidalPosConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    expand,
    linear,
    same,
    weight,
)
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    decoder_of,
    their_activation,
    transformer_of,
)
from orchestrator.modeling.layers.block_options import BlockOptions, Projection
from orchestrator.modeling.targets.token_configs import LmConfig

if TYPE_CHECKING:
    from torch import Tensor

Blocks = TypeVar("Blocks", TransformerConfig, TransformerDecoderConfig)

POSITION_OFFSET = 2
"""Rows of BART's position tables before position 0."""

SHARED_WORDS: Table = (weight("model.shared", "embedding.word"),)
LOGITS_BIAS = "final_logits_bias"
"""Their buffer, and our key for whether the file holds it."""
REPEATED = (
    Repeat("lm_head.weight", of="model.shared.weight"),
    Repeat("model.encoder.embed_tokens.weight", of="model.shared.weight"),
    Repeat("model.decoder.embed_tokens.weight", of="model.shared.weight"),
)


def logits_bias(config: ModelConfig) -> Table:
    """Return the row of the logits bias, if the model has one."""
    row = same(LOGITS_BIAS, "targets.lm.output.bias", leading_axes=1)
    return (row,) if _has_logits_bias(config) else ()


def _has_logits_bias(config: ModelConfig) -> bool:
    return all(target.bias for target in config.target if isinstance(target, LmConfig))


def no_logits_bias(config: ModelConfig) -> dict[str, Tensor]:
    """Return the logits bias of a new model; files of its body alone lack it."""
    import torch  # families are also listed without torch

    return {LOGITS_BIAS: torch.zeros(1, config.vocab_size)}


def wave_table(stack: EmbeddingStackConfig, sizes: Dimensions) -> Tensor:
    """Return the sine waves that a stack of embeddings stores, [positions, D].

    Raises:
        InputError: It stores none.
    """
    import torch

    from orchestrator.modeling.embeddings.positions import waves

    part, sizes = stack.part("sinusoidalpos"), stack.dimensions_of_parts(sizes)
    if not isinstance(part, SinusoidalPosConfig):
        raise InputError("only an embedding with sinusoidalpos has this form")
    numbers = torch.arange(sizes.max_position_embeddings + part.offset)
    return waves(numbers, sizes.hidden_size, part)


def attention(theirs: str, ours: str, *, key_bias: bool = True) -> Table:
    """Return the rows of one attention layer."""
    key = (f"{theirs}.k_proj", f"{ours}.key")
    return (
        *linear(f"{theirs}.q_proj", f"{ours}.query"),
        *(linear(*key) if key_bias else (weight(*key),)),
        *linear(f"{theirs}.v_proj", f"{ours}.value"),
        *linear(f"{theirs}.out_proj", f"{ours}.output"),
    )


def stack(side: str, options: BlockOptions) -> list[Row]:
    """Return the rows of the encoder's or decoder's blocks, layers written out."""
    layer, ours = f"model.{side}.layers.{{layer}}", f"{side}.layers.{{layer}}"
    key_bias = options.has_bias("key")
    rows = [
        *attention(f"{layer}.self_attn", f"{ours}.attention", key_bias=key_bias),
        *linear(f"{layer}.self_attn_layer_norm", f"{ours}.norm1"),
        *linear(f"{layer}.fc1", f"{ours}.feed_forward.up"),
        *linear(f"{layer}.fc2", f"{ours}.feed_forward.down"),
        *linear(f"{layer}.final_layer_norm", f"{ours}.norm2"),
    ]
    if side == "decoder":
        rows += attention(f"{layer}.encoder_attn", f"{ours}.cross_attention", key_bias=key_bias)
        rows += linear(f"{layer}.encoder_attn_layer_norm", f"{ours}.cross_norm")
    if options.norm_position == "pre":
        rows += linear(f"model.{side}.layer_norm", f"{side}.norm")
    return expand(rows, options.num_layers)


def stacks(config: ModelConfig) -> list[Row]:
    """Return the rows of both stacks."""
    return [*stack("encoder", transformer_of(config)), *stack("decoder", decoder_of(config))]


def blocks(
    kind: type[Blocks],
    theirs: Values,
    norm_position: Literal["pre", "post"],
    attention_bias: tuple[Projection, ...] | None = None,
) -> Blocks:
    """Return our options of the encoder's or decoder's blocks."""
    side = "decoder" if issubclass(kind, DecoderConfig) else "encoder"
    return kind(
        num_layers=theirs.integer(f"{side}_layers"),
        num_heads=theirs.integer(f"{side}_attention_heads"),
        intermediate_size=theirs.integer(f"{side}_ffn_dim"),
        norm_position=norm_position,
        activation=theirs.activation("activation_function"),
        attention_bias=attention_bias,
        dropout=theirs.number("dropout"),
        activation_dropout=theirs.number("activation_dropout"),
        attention_dropout=theirs.number("attention_dropout"),
    )


def their_blocks(config: ModelConfig) -> JsonObject:
    """Return what their config says about width, words and blocks."""
    encoder, decoder = transformer_of(config), decoder_of(config)
    values: JsonObject = {
        "d_model": config.hidden_size,
        "vocab_size": config.vocab_size,
        "pad_token_id": config.pad_token_id,
        "init_std": config.initializer_range,
        "activation_function": their_activation(encoder.activation),
        "dropout": encoder.dropout,
        "activation_dropout": encoder.activation_dropout,
        "attention_dropout": encoder.attention_dropout,
    }
    for side, options in (("encoder", encoder), ("decoder", decoder)):
        values[f"{side}_layers"] = options.num_layers
        values[f"{side}_attention_heads"] = options.num_heads
        values[f"{side}_ffn_dim"] = options.size_of_feed_forward(config.dimensions)
    return values


def text_to_text(
    theirs: Values,
    positions: EmbeddingConfig,
    *,
    norm_position: Literal["pre", "post"],
    layernorm: bool,
) -> ModelConfig:
    """Return the model config of a text-to-text model with shared words and a logits bias.

    Args:
        theirs: Their config.
        positions: The part that knows positions, the same on both sides.
        norm_position: Place of the norms in blocks.
        layernorm: Whether embeddings are normalized.
    """
    theirs.require(tie_word_embeddings=True, is_decoder=False)
    side = EmbeddingStackConfig(
        parts=(WordConfig(scale=theirs.flag("scale_embedding")), positions),
        layernorm=layernorm,
        dropout=theirs.number("dropout"),
    )
    return ModelConfig(
        hidden_size=theirs.integer("d_model"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("init_std"),
        embedding=side,
        encoder=blocks(TransformerConfig, theirs, norm_position),
        target_embedding=side,
        decoder=blocks(TransformerDecoderConfig, theirs, norm_position),
        share_embedding=True,
        target=(LmConfig(tie=True, bias=theirs.flag(LOGITS_BIAS, True)),),
    )


def their_text_to_text(config: ModelConfig) -> JsonObject:
    """Return the values of the config of a text-to-text model."""
    words = config.embedding.part("word")
    values = their_blocks(config) | {
        "max_position_embeddings": config.max_position_embeddings,
        "scale_embedding": getattr(words, "scale", False),
    }
    return values if _has_logits_bias(config) else values | {LOGITS_BIAS: False}


def their_started_with_padding(config: ModelConfig) -> JsonObject:
    """Return the same values for a model whose decoder starts with the padding token."""
    return their_text_to_text(config) | {"decoder_start_token_id": config.pad_token_id}


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``BartConfig``."""
    positions = PosConfig(offset=POSITION_OFFSET)
    return text_to_text(theirs, positions, norm_position="post", layernorm=True)


def table(config: ModelConfig) -> list[Row]:
    """Return every tensor of ``BartForConditionalGeneration``."""
    return [
        *SHARED_WORDS,
        weight("model.encoder.embed_positions", "embedding.pos"),
        weight("model.decoder.embed_positions", "target_embedding.pos"),
        *linear("model.encoder.layernorm_embedding", "embedding.norm"),
        *linear("model.decoder.layernorm_embedding", "target_embedding.norm"),
        *stacks(config),
        *logits_bias(config),
    ]


ARCHITECTURES = (
    Architecture(
        "BartForConditionalGeneration",
        "bart",
        model_config,
        their_text_to_text,
        table,
        REPEATED,
        no_logits_bias,
    ),
)
