"""Gemma 2: LLaMA with four norms a block, capped scores and logits, and a window in every second.

Gemma team 2024 ("Gemma 2: Improving Open Language Models at a Practical Size"), section 2. Norms
multiply by 1 + weight. Word vectors are multiplied by sqrt(width), rounded to the type of the
table. Scores are divided by the root of ``query_pre_attn_scalar`` and capped by a tanh, so that
attention is computed by its formula, here as in transformers.

Rows and values serve Gemma 3 too.
"""

from collections.abc import Mapping
from functools import partial

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.families.layer_types import (
    their_layer_types,
    window_options,
)
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.layers.block_options import RotaryConfig
from orchestrator.modeling.targets.token_configs import LmConfig

NORMS = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "post_norm1",
    "pre_feedforward_layernorm": "norm2",
    "post_feedforward_layernorm": "post_norm2",
}
table = partial(llama.table, norms=NORMS)
"""Our config → every parameter of ``Gemma2ForCausalLM`` or ``Gemma3ForCausalLM``."""


def body_config(
    theirs: Values, options: Mapping[str, object], rotary: RotaryConfig | None = None
) -> ModelConfig:
    """Return our model config for Gemma 2 or 3.

    Args:
        theirs: Their config.
        options: Options of the encoder that the two do not share.
        rotary: Rotary positions; None: those of `rope_parameters`.
    """
    config = llama.body_config(
        theirs,
        attention_bias=llama.attention_biases(theirs),
        activation="hidden_activation",
        rotary=rotary,
        pads=True,
        options={
            "norm": "rms_offset",
            "norm_position": "both",
            "attention_scale": theirs.number("query_pre_attn_scalar") ** -0.5,
            **window_options(theirs),
            **options,
        },
    )
    words = WordConfig(scale="rounded")
    stack = EmbeddingStackConfig(parts=(words,), layernorm=False, dropout=0.0)
    tied = theirs.flag("tie_word_embeddings")
    head = LmConfig(tie=tied, softcap=theirs.optional_number("final_logit_softcapping"))
    return config.model_copy(update={"embedding": stack, "target": (head,)})


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``Gemma2Config``.

    Raises:
        InputError: Attention is bidirectional, which their class ignores in part.
    """
    if theirs.flag("use_bidirectional_attention", False):
        raise InputError("use_bidirectional_attention: true is not supported; only false is.")
    cap = theirs.optional_number("attn_logit_softcapping")
    return body_config(theirs, {"attention_softcap": cap})


def their_body(config: ModelConfig) -> JsonObject:
    """Return the values that Gemma 2 and 3 share."""
    encoder, values = transformer_of(config), llama.their_body(config)
    scale = encoder.scale_of_attention(config.dimensions)
    activation = values.pop("hidden_act")
    caps = [target.softcap for target in config.target if isinstance(target, LmConfig)]
    values |= {
        # the name of torch's own kernel; the other one computes the same step by step
        "hidden_activation": "gelu_pytorch_tanh" if activation == "gelu_new" else activation,
        "pad_token_id": config.pad_token_id,
        "head_dim": encoder.size_of_head(config.dimensions),
        "attention_bias": encoder.has_bias("query"),
        "query_pre_attn_scalar": round(scale**-2),
        "final_logit_softcapping": caps[0] if caps else None,
        **their_layer_types(encoder),
    }
    return values if encoder.window is None else values | {"sliding_window": encoder.window}


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Gemma2Config``."""
    cap = transformer_of(config).attention_softcap
    return their_body(config) | {"attn_logit_softcapping": cap}


_LM = Architecture("Gemma2ForCausalLM", "gemma2", model_config, their_config, table, llama.REPEATED)
ARCHITECTURES = (_LM, *heads_of(_LM, without=("ForQuestionAnswering",)))
