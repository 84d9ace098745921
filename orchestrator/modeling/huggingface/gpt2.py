"""GPT-2: transformers' ``GPT2LMHeadModel`` as embedding + causal pre-norm encoder + lm."""

from collections.abc import Mapping
from typing import Any

from orchestrator.modeling.huggingface.activations import ACTIVATIONS
from orchestrator.modeling.huggingface.keys import Row, linear

_THEIRS = "transformer.h.{layer}"
_OURS = "encoder.layers.{layer}"
_QKV = tuple(f"{_OURS}.attention.{name}" for name in ("query", "key", "value"))

TABLE: tuple[Row, ...] = (
    Row("transformer.wte.weight", ("embedding.word.weight",)),
    Row("transformer.wpe.weight", ("embedding.pos.weight",)),
    *linear(f"{_THEIRS}.ln_1", f"{_OURS}.norm1"),
    *linear(f"{_THEIRS}.attn.c_attn", *_QKV, transposed=True),
    *linear(f"{_THEIRS}.attn.c_proj", f"{_OURS}.attention.output", transposed=True),
    *linear(f"{_THEIRS}.ln_2", f"{_OURS}.norm2"),
    *linear(f"{_THEIRS}.mlp.c_fc", f"{_OURS}.feed_forward.up", transposed=True),
    *linear(f"{_THEIRS}.mlp.c_proj", f"{_OURS}.feed_forward.down", transposed=True),
    *linear("transformer.ln_f", "encoder.norm"),
)
"""Every parameter of ``GPT2LMHeadModel``."""

TIED = ("lm_head.weight",)
"""Second names in their state dict."""


def model_config(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return our model config for the values of their ``GPT2Config``."""
    return {
        "hidden_size": theirs["n_embd"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["n_positions"],
        "initializer_range": theirs["initializer_range"],
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
            "activation": ACTIVATIONS[theirs["activation_function"]],
            "mask": "causal",
            "dropout": theirs["resid_pdrop"],
            "attention_dropout": theirs["attn_pdrop"],
        },
        "target": [{"type": "lm", "tie": True}],
    }
