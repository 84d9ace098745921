"""Which class of transformers a pattern of windows and rotary positions is, if any."""

import pytest

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.classes import architecture_of

from .small import make_config

LLAMA = {
    "type": "transformer",
    "num_layers": 3,
    "num_heads": 2,
    "norm_position": "pre",
    "norm": "rms",
    "feed_forward": "gated",
    "activation": "silu",
    "bias": False,
    "mask": "causal",
    "rotary": {},
    "dropout": 0.0,
}
QWEN2 = LLAMA | {"attention_bias": ["query", "key", "value"]}


def class_of(encoder):
    config = make_config(
        embedding={"parts": ["word"], "layernorm": False, "dropout": 0.0},
        encoder=encoder,
        target={"type": "lm", "tie": False},
    )
    return architecture_of(config).name


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("LlamaForCausalLM", LLAMA | {"rotary_layers": [0, 1, 2]}),
        ("MistralForCausalLM", LLAMA | {"window": 4}),
        ("MistralForCausalLM", LLAMA | {"window": 4, "window_layers": [0, 1, 2]}),
        ("MistralForCausalLM", LLAMA | {"window": 4, "window_rotary": {}}),
        ("Qwen2ForCausalLM", QWEN2 | {"window": 4, "window_from": 1}),
        ("Qwen2ForCausalLM", QWEN2 | {"window": 4, "window_layers": [1, 2]}),
        ("SmolLM3ForCausalLM", LLAMA | {"window": 4, "window_layers": [0, 2]}),
    ],
)
def test_it_does_not_matter_how_a_pattern_is_written(name, encoder):
    assert class_of(encoder) == name


@pytest.mark.parametrize(
    ("option", "pattern"),
    [
        ("window_rotary", {"window": 4, "window_rotary": {"theta": 500.0}}),
        ("first_norm", {"first_norm": False}),
        ("norm_bias", {"norm": "layernorm", "norm_bias": False}),
    ],
)
def test_a_pattern_without_a_class_is_refused_by_name(option, pattern):
    with pytest.raises(InputError, match=rf"no counterpart.*encoder\.{option}\b"):
        class_of(LLAMA | pattern)
