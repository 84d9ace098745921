"""Qwen3, SmolLM3 and OLMo 2 against transformers' classes: outputs, loss, gradients, and back."""

import pytest
from transformers import (
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import Values

from .harness import check_outputs_loss_and_gradients, check_there_and_back
from .test_decoder_only import ROPE, SIZES, causal

FULL, SLIDING = "full_attention", "sliding_attention"
FOUR = SIZES | {"num_hidden_layers": 4, "pad_token_id": None}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}

CASES = {
    "qwen3": causal(Qwen3ForCausalLM, Qwen3Config, **SIZES, head_dim=12, rope_parameters=ROPE),
    "qwen3_tied_biases": causal(
        Qwen3ForCausalLM,
        Qwen3Config,
        **SIZES | {"num_key_value_heads": 1},
        head_dim=8,
        tie_word_embeddings=True,
        attention_bias=True,
        rms_norm_eps=1e-3,
        hidden_act="gelu",
    ),
    "qwen3_window": causal(
        Qwen3ForCausalLM,
        Qwen3Config,
        **SIZES,
        head_dim=6,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
        rope_parameters=YARN | {"original_max_position_embeddings": 16},
    ),
    "qwen3_alternating": causal(
        Qwen3ForCausalLM,
        Qwen3Config,
        **SIZES,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=[SLIDING, FULL],
    ),
    "smollm3": causal(SmolLM3ForCausalLM, SmolLM3Config, **FOUR),
    "smollm3_window_biases": causal(
        SmolLM3ForCausalLM,
        SmolLM3Config,
        **FOUR,
        no_rope_layers=[0, 1, 1, 0],
        use_sliding_window=True,
        sliding_window=3,
        attention_bias=True,
        tie_word_embeddings=False,
    ),
    "smollm3_feed_forward_bias": causal(
        SmolLM3ForCausalLM, SmolLM3Config, **FOUR, no_rope_layer_interval=2, mlp_bias=True
    ),
    "olmo2": causal(Olmo2ForCausalLM, Olmo2Config, **SIZES, rope_parameters=ROPE),
    "olmo2_tied_biases": causal(
        Olmo2ForCausalLM,
        Olmo2Config,
        **SIZES | {"num_key_value_heads": 4},
        attention_bias=True,
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
    ),
}
ALL_ROTARY = causal(
    SmolLM3ForCausalLM,
    SmolLM3Config,
    twin="LlamaForCausalLM",
    **FOUR | {"pad_token_id": 0},
    no_rope_layers=[1, 1, 1, 1],
)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(CASES))
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    case = CASES[name](attention, side)
    check_outputs_loss_and_gradients(case, tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa", "right"), tmp_path)


def test_a_model_with_positions_in_all_blocks_is_a_llama(tmp_path):
    check_there_and_back(ALL_ROTARY("sdpa", "right"), tmp_path)


def test_a_model_without_positions_is_refused():
    theirs = SmolLM3Config(**FOUR, no_rope_layers=[0, 0, 0, 0]).to_dict()
    with pytest.raises(InputError, match="no_rope_layers: no block has rotary positions"):
        find_architecture("SmolLM3ForCausalLM").model_config(Values(theirs))
