"""LLaMA: transformers' ``LlamaForCausalLM`` as word, rotary RMS-normed gated encoder, and lm."""

from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.keys import Row, Table, expand, weight
from orchestrator.modeling.huggingface.values import (
    activation_of,
    require,
    their_activation,
    transformer_of,
)

_LAYER = "model.layers.{layer}"
_OURS = "encoder.layers.{layer}"

ATTENTION: Table = (
    weight("model.embed_tokens", "embedding.word"),
    weight(f"{_LAYER}.self_attn.q_proj", f"{_OURS}.attention.query"),
    weight(f"{_LAYER}.self_attn.k_proj", f"{_OURS}.attention.key"),
    weight(f"{_LAYER}.self_attn.v_proj", f"{_OURS}.attention.value"),
    weight(f"{_LAYER}.self_attn.o_proj", f"{_OURS}.attention.output"),
    weight(f"{_LAYER}.input_layernorm", f"{_OURS}.norm1"),
    weight(f"{_LAYER}.post_attention_layernorm", f"{_OURS}.norm2"),
    weight("model.norm", "encoder.norm"),
)
FEED_FORWARD: Table = (
    weight(f"{_LAYER}.mlp.gate_proj", f"{_OURS}.feed_forward.gate"),
    weight(f"{_LAYER}.mlp.up_proj", f"{_OURS}.feed_forward.up"),
    weight(f"{_LAYER}.mlp.down_proj", f"{_OURS}.feed_forward.down"),
)
UNTIED: Table = (weight("lm_head", "targets.lm.output"),)
REPEATED = ("lm_head.weight", "model.layers.*.self_attn.rotary_emb.inv_freq")


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``LlamaConfig``."""
    require(theirs, attention_bias=False, mlp_bias=False)
    require(theirs["rope_parameters"], rope_type="default")
    return {
        "hidden_size": theirs["hidden_size"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["max_position_embeddings"],
        "initializer_range": theirs["initializer_range"],
        "embedding": {"parts": ["word"], "layernorm": False, "dropout": 0.0},
        "encoder": {
            "type": "transformer",
            "num_layers": theirs["num_hidden_layers"],
            "num_heads": theirs["num_attention_heads"],
            "num_kv_heads": theirs["num_key_value_heads"],
            "head_size": theirs["head_dim"],
            "intermediate_size": theirs["intermediate_size"],
            "norm_position": "pre",
            "norm": "rms",
            "norm_eps": theirs["rms_norm_eps"],
            "activation": activation_of(theirs, "hidden_act"),
            "feed_forward": "gated",
            "bias": False,
            "mask": "causal",
            "rotary": {"theta": theirs["rope_parameters"]["rope_theta"]},
            "dropout": 0.0,
            "attention_dropout": theirs["attention_dropout"],
        },
        "target": [{"type": "lm", "tie": theirs["tie_word_embeddings"]}],
    }


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``LlamaConfig``."""
    encoder = transformer_of(config)
    rotary = encoder.rotary
    return {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "num_key_value_heads": encoder.num_kv_heads or encoder.num_heads,
        "head_dim": encoder.size_of_head(config.dimensions),
        "intermediate_size": encoder.size_of_feed_forward(config.dimensions),
        "rms_norm_eps": encoder.norm_eps,
        "hidden_act": their_activation(encoder.activation),
        "attention_dropout": encoder.attention_dropout,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0 if rotary is None else rotary.theta,
        },
        "tie_word_embeddings": is_tied(config),
    }


def is_tied(config: ModelConfig) -> bool:
    """Whether the output layer is the word table."""
    return all(target.ties_words for target in config.target)


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``LlamaForCausalLM``."""
    rows = (*ATTENTION, *FEED_FORWARD, *(() if is_tied(config) else UNTIED))
    return expand(rows, transformer_of(config).num_layers)


ARCHITECTURES = (
    Architecture("LlamaForCausalLM", "llama", model_config, their_config, table, REPEATED),
)
