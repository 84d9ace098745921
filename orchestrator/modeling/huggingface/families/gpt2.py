"""GPT-2: transformers' ``GPT2LMHeadModel`` as word + pos, causal pre-norm encoder, and lm."""

from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.keys import Row, expand, linear, weight
from orchestrator.modeling.huggingface.values import (
    activation_of,
    require,
    their_activation,
    transformer_of,
)

_LAYER = "transformer.h.{layer}"
_OURS = "encoder.layers.{layer}"
_QKV = tuple(f"{_OURS}.attention.{name}" for name in ("query", "key", "value"))

TABLE = (
    weight("transformer.wte", "embedding.word"),
    weight("transformer.wpe", "embedding.pos"),
    *linear(f"{_LAYER}.ln_1", f"{_OURS}.norm1"),
    *linear(f"{_LAYER}.attn.c_attn", *_QKV, transposed=True),
    *linear(f"{_LAYER}.attn.c_proj", f"{_OURS}.attention.output", transposed=True),
    *linear(f"{_LAYER}.ln_2", f"{_OURS}.norm2"),
    *linear(f"{_LAYER}.mlp.c_fc", f"{_OURS}.feed_forward.up", transposed=True),
    *linear(f"{_LAYER}.mlp.c_proj", f"{_OURS}.feed_forward.down", transposed=True),
    *linear("transformer.ln_f", "encoder.norm"),
)
REPEATED = ("lm_head.weight", "transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias")


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``GPT2Config``."""
    require(
        theirs,
        tie_word_embeddings=True,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    return {
        "hidden_size": theirs["n_embd"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["n_positions"],
        "initializer_range": theirs["initializer_range"],
        "initialization": "gpt2",
        "embedding": {
            "parts": ["word", "pos"],
            "layernorm": False,
            "dropout": theirs["embd_pdrop"],
        },
        "encoder": {
            "type": "transformer",
            "num_layers": theirs["n_layer"],
            "num_heads": theirs["n_head"],
            "intermediate_size": theirs["n_inner"] or 4 * theirs["n_embd"],
            "norm_position": "pre",
            "norm_eps": theirs["layer_norm_epsilon"],
            "activation": activation_of(theirs, "activation_function"),
            "mask": "causal",
            "dropout": theirs["resid_pdrop"],
            "attention_dropout": theirs["attn_pdrop"],
        },
        "target": [{"type": "lm", "tie": True}],
    }


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``GPT2Config``."""
    encoder = transformer_of(config)
    return {
        "n_embd": config.hidden_size,
        "vocab_size": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "embd_pdrop": config.embedding.dropout,
        "n_layer": encoder.num_layers,
        "n_head": encoder.num_heads,
        "n_inner": encoder.size_of_feed_forward(config.dimensions),
        "layer_norm_epsilon": encoder.norm_eps,
        "activation_function": their_activation(encoder.activation),
        "resid_pdrop": encoder.dropout,
        "attn_pdrop": encoder.attention_dropout,
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``GPT2LMHeadModel``."""
    return expand(TABLE, transformer_of(config).num_layers)


ARCHITECTURES = (
    Architecture("GPT2LMHeadModel", "gpt2", model_config, their_config, table, REPEATED),
)
