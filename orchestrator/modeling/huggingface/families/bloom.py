"""BLOOM: transformers' ``BloomForCausalLM`` as normed words, causal encoder with ALiBi, and lm."""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    expand,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.layers.bias_options import AlibiConfig
from orchestrator.modeling.targets.token_configs import LmConfig

POSITIONS = 2048
"""Positions of a model whose config does not say for how many it was trained."""

_LAYER = "transformer.h.{layer}"
_OURS = "encoder.layers.{layer}"
_QKV = tuple(f"{_OURS}.attention.{name}" for name in ("query", "key", "value"))


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``BloomConfig``."""
    theirs.require(apply_residual_connection_post_layernorm=False, tie_word_embeddings=True)
    width, eps = theirs.integer("hidden_size"), theirs.number("layer_norm_epsilon")
    return ModelConfig(
        hidden_size=width,
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("seq_length", POSITIONS),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(parts=(WordConfig(),), norm_eps=eps, dropout=0.0),
        encoder=TransformerConfig(
            num_layers=theirs.integer("n_layer"),
            num_heads=theirs.integer("n_head"),
            intermediate_size=4 * width,
            norm_position="pre",
            norm_eps=eps,
            activation="gelu_tanh",
            mask="causal",
            position_bias=AlibiConfig(),
            dropout=theirs.number("hidden_dropout"),
            attention_dropout=theirs.number("attention_dropout"),
        ),
        target=(LmConfig(tie=True),),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``BloomConfig``."""
    encoder = transformer_of(config)
    return {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "seq_length": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "n_layer": encoder.num_layers,
        "n_head": encoder.num_heads,
        "layer_norm_epsilon": encoder.norm_eps,
        "hidden_dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout,
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``BloomForCausalLM``; query, key, value stand head by head."""
    encoder = transformer_of(config)
    rows = (
        weight("transformer.word_embeddings", "embedding.word"),
        *linear("transformer.word_embeddings_layernorm", "embedding.norm"),
        *linear(f"{_LAYER}.input_layernorm", f"{_OURS}.norm1"),
        *linear(f"{_LAYER}.self_attention.query_key_value", *_QKV, heads=encoder.num_heads),
        *linear(f"{_LAYER}.self_attention.dense", f"{_OURS}.attention.output"),
        *linear(f"{_LAYER}.post_attention_layernorm", f"{_OURS}.norm2"),
        *linear(f"{_LAYER}.mlp.dense_h_to_4h", f"{_OURS}.feed_forward.up"),
        *linear(f"{_LAYER}.mlp.dense_4h_to_h", f"{_OURS}.feed_forward.down"),
        *linear("transformer.ln_f", "encoder.norm"),
    )
    return expand(rows, encoder.num_layers)


_LM = Architecture(
    "BloomForCausalLM",
    "bloom",
    model_config,
    their_config,
    table,
    (Repeat("lm_head.weight", of="transformer.word_embeddings.weight"),),
)
ARCHITECTURES = (_LM, *heads_of(_LM, front="transformer", tags="classifier"))
