"""Mistral, Qwen2, Mixtral, BLOOM and the options of LLaMA against transformers' classes.

Outputs, loss, every gradient, there and back; rotary scaling also at real sizes.
"""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.families.layer_types import window_options
from orchestrator.modeling.huggingface.families.llama import rotary_config
from orchestrator.modeling.huggingface.values import Values
from orchestrator.modeling.layers.relative_positions import frequencies, magnitude

from .harness import (
    LAYERS,
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    next_token_labels,
    padded_batch,
)

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
PLAIN_FORMULA = (BloomConfig, Gemma2Config)
"""Configs of classes that have no fused attention."""
ROPE = {"rope_type": "default", "rope_theta": 500.0}


def causal(cls, config_class, more=None, twin="", **options):
    """Return a function that makes the case for one attention kernel and side of padding.

    ``more`` are further inputs of theirs.
    """

    def case(attention, side):
        kernel = "eager" if config_class in PLAIN_FORMULA else attention
        config = config_class(attn_implementation=kernel, **options)
        batch = padded_batch(side)
        del batch["token_type_ids"]
        theirs, ours = next_token_labels(batch["attention_mask"])
        return Case(
            cls(config),
            batch | {"labels": theirs} | (more or {}),
            batch | {"labels.lm": ours},
            {"lm": lambda o: o.logits},
            {"lm": batch["attention_mask"].bool()},
            twin=twin,
        )

    return case


def llama(**options):
    return causal(LlamaForCausalLM, LlamaConfig, **(SIZES | {"rope_parameters": ROPE} | options))


def scaled(rope_type, **options):
    return llama(rope_parameters={"rope_type": rope_type, "rope_theta": 500.0, **options})


CASES = {
    "mistral": causal(
        MistralForCausalLM, MistralConfig, **SIZES, rope_parameters=ROPE, sliding_window=5
    ),
    "mistral_free_head_size": causal(
        MistralForCausalLM,
        MistralConfig,
        twin="LlamaForCausalLM",
        **SIZES,
        head_dim=12,
        sliding_window=None,
    ),
    "qwen2": causal(Qwen2ForCausalLM, Qwen2Config, **SIZES, tie_word_embeddings=True),
    "qwen2_window": causal(
        Qwen2ForCausalLM,
        Qwen2Config,
        **SIZES,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    ),
    "qwen2_alternating": causal(
        Qwen2ForCausalLM,
        Qwen2Config,
        **SIZES | {"num_hidden_layers": 3},
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "mixtral": causal(
        MixtralForCausalLM,
        MixtralConfig,
        more={"output_router_logits": True},
        **SIZES,
        num_local_experts=4,
        router_aux_loss_coef=0.3,
    ),
    "bloom": causal(
        BloomForCausalLM, BloomConfig, vocab_size=VOCAB, hidden_size=32, n_layer=LAYERS, n_head=4
    ),
    "bloom_six_heads": causal(
        BloomForCausalLM, BloomConfig, vocab_size=VOCAB, hidden_size=36, n_layer=LAYERS, n_head=6
    ),
    "llama_biases": llama(attention_bias=True, mlp_bias=True),
    "llama_attention_bias": llama(attention_bias=True),
    "llama_linear": scaled("linear", factor=2.5),
    "llama_llama3": scaled(
        "llama3",
        factor=4.0,
        low_freq_factor=1.0,
        high_freq_factor=3.0,
        original_max_position_embeddings=32,
    ),
    "llama_yarn": scaled("yarn", factor=4.0, original_max_position_embeddings=16),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(CASES))
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    case = CASES[name](attention, side)
    check_outputs_loss_and_gradients(case, tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa", "right"), tmp_path)


SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
        "truncate": False,
    },
    {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 2048,
        "attention_factor": 1.5,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
]


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: f"{s['rope_type']}_{s['factor']}")
def test_scaled_frequencies_equal_the_reference(scaling, theta):
    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters=scaling | {"rope_theta": theta},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    ours = rotary_config(Values(config.to_dict()["rope_parameters"]))
    torch.testing.assert_close(
        frequencies(ours, 128, torch.device("cpu")), expected, rtol=1e-6, atol=0
    )
    assert magnitude(ours) == pytest.approx(factor, rel=1e-12)


def test_unsupported_scaling_is_refused():
    with pytest.raises(InputError, match="rope_type: 'dynamic' has no counterpart"):
        rotary_config(Values({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}))
    partial = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    with pytest.raises(InputError, match="partial_rotary_factor"):
        rotary_config(Values(partial))


def test_blocks_of_other_types_are_refused():
    types = ["sliding_attention", "chunked_attention"]
    with pytest.raises(InputError, match=r"layer_types: \['chunked_attention'\] is not supported"):
        window_options(Values({"layer_types": types, "sliding_window": 4}))


def test_mixtral_without_balance_has_no_balance_target(tmp_path):
    case = causal(MixtralForCausalLM, MixtralConfig, **SIZES, router_aux_loss_coef=0.0)
    check_outputs_loss_and_gradients(case("sdpa", "right"), tmp_path)
