"""T5, T5 v1.1 and mT5: transformers' classes, two stacks with one word table, or the encoder alone.

Their config says by ``scale_decoder_outputs`` which of the two a checkpoint is: v1.0 divides what
the tied output layer reads by the square root of the width, v1.1 divides nothing and has an output
layer of its own, or the tied one where its file holds no other. Their dropout after a stack's last
norm has no counterpart here.
"""

from typing import TypeVar

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.embeddings.configs import WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    expand,
    weight,
)
from orchestrator.modeling.huggingface.values import (
    OUTPUT_STORED,
    JsonObject,
    Values,
    decoder_of,
    their_activation,
    transformer_of,
)
from orchestrator.modeling.layers.bias_options import T5BiasConfig
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.targets.token_configs import LmConfig

Blocks = TypeVar("Blocks", TransformerConfig, TransformerDecoderConfig)

_POSITIONS = 512
"""Length of their training sequences (``n_positions``), where a config does not say it."""
_GATED_GELU = "gated-gelu"
"""Their name of the feed-forward that is gated by the tanh form of GELU."""


def attention(theirs: str, ours: str) -> Table:
    """Return the rows of one attention layer."""
    names = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return tuple(weight(f"{theirs}.{t}", f"{ours}.{o}") for t, o in names.items())


def feed_forward(theirs: str, ours: str, *, gated: bool) -> Table:
    """Return the rows of one feed-forward."""
    if not gated:
        return (weight(f"{theirs}.wi", f"{ours}.up"), weight(f"{theirs}.wo", f"{ours}.down"))
    names = {"wi_0": "gate", "wi_1": "up", "wo": "down"}
    return tuple(weight(f"{theirs}.{t}", f"{ours}.{o}") for t, o in names.items())


def stack(side: str, options: BlockOptions) -> list[Row]:
    """Return the rows of the encoder or decoder, layers written out."""
    block, ours = f"{side}.block.{{layer}}.layer", f"{side}.layers.{{layer}}"
    last = 1 if side == "encoder" else 2
    bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
    gated = options.feed_forward == "gated"
    rows = [
        weight(bias, f"{side}.position_bias"),
        *attention(f"{block}.0.SelfAttention", f"{ours}.attention"),
        weight(f"{block}.0.layer_norm", f"{ours}.norm1"),
        *feed_forward(f"{block}.{last}.DenseReluDense", f"{ours}.feed_forward", gated=gated),
        weight(f"{block}.{last}.layer_norm", f"{ours}.norm2"),
        weight(f"{side}.final_layer_norm", f"{side}.norm"),
    ]
    if side == "decoder":
        rows += attention(f"{block}.1.EncDecAttention", f"{ours}.cross_attention")
        rows.append(weight(f"{block}.1.layer_norm", f"{ours}.cross_norm"))
    return expand(rows, options.num_layers)


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``T5ForConditionalGeneration``."""
    rows = [weight("shared", "embedding.word")]
    if not all(target.ties_words for target in config.target):
        rows.append(weight("lm_head", "targets.lm.output"))
    return [*rows, *stack("encoder", transformer_of(config)), *stack("decoder", decoder_of(config))]


def blocks(kind: type[Blocks], theirs: Values, num_layers: int) -> Blocks:
    """Return our options of the encoder's or decoder's blocks."""
    rate = theirs.number("dropout_rate")
    return kind(
        num_layers=num_layers,
        num_heads=theirs.integer("num_heads"),
        head_size=theirs.integer("d_kv"),
        intermediate_size=theirs.integer("d_ff"),
        norm_position="pre",
        norm="rms",
        norm_eps=theirs.number("layer_norm_epsilon"),
        activation=theirs.activation("dense_act_fn"),
        feed_forward="gated" if theirs.flag("is_gated_act") else "dense",
        bias=False,
        attention_scale=1.0,
        position_bias=T5BiasConfig(
            buckets=theirs.integer("relative_attention_num_buckets"),
            max_distance=theirs.integer("relative_attention_max_distance"),
        ),
        dropout=rate,
        activation_dropout=rate,
        attention_dropout=rate,
    )


def encoder_config(theirs: Values) -> ModelConfig:
    """Return our model config of the encoder alone."""
    theirs.require(is_decoder=False)
    return ModelConfig(
        hidden_size=theirs.integer("d_model"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("n_positions", _POSITIONS),
        pad_token_id=theirs.integer("pad_token_id"),
        initialization="t5",
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(),), layernorm=False, dropout=theirs.number("dropout_rate")
        ),
        encoder=blocks(TransformerConfig, theirs, theirs.integer("num_layers")),
    )


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``T5Config``."""
    original = theirs.flag("scale_decoder_outputs", theirs.flag("tie_word_embeddings"))
    return _both_stacks(theirs, original)


def mt5_config(theirs: Values) -> ModelConfig:
    """Return our model config for an ``MT5Config``, always a v1.1."""
    return _both_stacks(theirs, original=False)


def _both_stacks(theirs: Values, original: bool) -> ModelConfig:
    stored = theirs.flag(OUTPUT_STORED, not original)
    encoder = encoder_config(theirs)
    return ModelConfig(
        **{name: getattr(encoder, name) for name in encoder.model_fields_set},
        target_embedding=encoder.embedding,
        decoder=blocks(TransformerDecoderConfig, theirs, theirs.integer("num_decoder_layers")),
        share_embedding=True,
        target=(LmConfig(tie=original or not stored, scale=original),),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``T5Config``."""
    values, target = their_encoder(config), config.target[0]
    values["num_decoder_layers"] = decoder_of(config).num_layers
    values["tie_word_embeddings"] = isinstance(target, LmConfig) and target.scale
    if isinstance(target, LmConfig) and target.tie and not target.scale:
        values[OUTPUT_STORED] = False
    return values


def their_encoder(config: ModelConfig) -> JsonObject:
    """Return the values of a ``T5Config`` of the encoder."""
    encoder = transformer_of(config)
    bias = encoder.position_bias
    act = their_activation(encoder.activation)
    gated = _GATED_GELU if encoder.activation == "gelu_tanh" else f"gated-{act}"
    values: JsonObject = {
        "d_model": config.hidden_size,
        "vocab_size": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "pad_token_id": config.pad_token_id,
        "decoder_start_token_id": config.pad_token_id,
        "num_layers": encoder.num_layers,
        "num_heads": encoder.num_heads,
        "d_kv": encoder.size_of_head(config.dimensions),
        "d_ff": encoder.size_of_feed_forward(config.dimensions),
        "layer_norm_epsilon": encoder.norm_eps,
        "feed_forward_proj": gated if encoder.feed_forward == "gated" else act,
        "dropout_rate": encoder.dropout,
    }
    if isinstance(bias, T5BiasConfig):
        values["relative_attention_num_buckets"] = bias.buckets
        values["relative_attention_max_distance"] = bias.max_distance
    return values


REPEATED = (
    Repeat("lm_head.weight", of="shared.weight"),
    Repeat("encoder.embed_tokens.weight", of="shared.weight"),
    Repeat("decoder.embed_tokens.weight", of="shared.weight"),
    Repeat("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
)

OF_ENCODER = (Repeat("encoder.embed_tokens.weight", of="shared.weight"),)


def encoder_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``T5EncoderModel``."""
    return [weight("shared", "embedding.word"), *stack("encoder", transformer_of(config))]


def _encoder(name: str, model_type: str) -> Architecture:
    return Architecture(name, model_type, encoder_config, their_encoder, encoder_table, OF_ENCODER)


ARCHITECTURES = (
    Architecture("T5ForConditionalGeneration", "t5", model_config, their_config, table, REPEATED),
    _encoder("T5EncoderModel", "t5"),
    Architecture("MT5ForConditionalGeneration", "mt5", mt5_config, their_config, table, REPEATED),
    _encoder("MT5EncoderModel", "mt5"),
)
