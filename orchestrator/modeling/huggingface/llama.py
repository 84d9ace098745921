"""LLaMA: transformers' ``LlamaForCausalLM`` as word + rotary, RMS-normed, gated encoder + lm."""

from collections.abc import Mapping
from typing import Any

from orchestrator.modeling.huggingface.activations import ACTIVATIONS
from orchestrator.modeling.huggingface.keys import Row

_THEIRS = "model.layers.{layer}"
_OURS = "encoder.layers.{layer}"


def _weight(theirs: str, ours: str) -> Row:
    return Row(f"{theirs}.weight", (f"{ours}.weight",))


TABLE: tuple[Row, ...] = (
    _weight("model.embed_tokens", "embedding.word"),
    _weight(f"{_THEIRS}.self_attn.q_proj", f"{_OURS}.attention.query"),
    _weight(f"{_THEIRS}.self_attn.k_proj", f"{_OURS}.attention.key"),
    _weight(f"{_THEIRS}.self_attn.v_proj", f"{_OURS}.attention.value"),
    _weight(f"{_THEIRS}.self_attn.o_proj", f"{_OURS}.attention.output"),
    _weight(f"{_THEIRS}.mlp.gate_proj", f"{_OURS}.feed_forward.gate"),
    _weight(f"{_THEIRS}.mlp.up_proj", f"{_OURS}.feed_forward.up"),
    _weight(f"{_THEIRS}.mlp.down_proj", f"{_OURS}.feed_forward.down"),
    _weight(f"{_THEIRS}.input_layernorm", f"{_OURS}.norm1"),
    _weight(f"{_THEIRS}.post_attention_layernorm", f"{_OURS}.norm2"),
    _weight("model.norm", "encoder.norm"),
    _weight("lm_head", "targets.lm.output"),
)
"""Every parameter of an untied ``LlamaForCausalLM``."""

TIED: tuple[str, ...] = ()
"""Second names in their state dict."""


def model_config(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return our model config for the values of their ``LlamaConfig``, untied and unscaled."""
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
            "activation": ACTIVATIONS[theirs["hidden_act"]],
            "feed_forward": "gated",
            "bias": False,
            "mask": "causal",
            "rotary": {"theta": theirs["rope_parameters"]["rope_theta"]},
            "dropout": 0.0,
            "attention_dropout": theirs["attention_dropout"],
        },
        "target": [{"type": "lm", "tie": False}],
    }
