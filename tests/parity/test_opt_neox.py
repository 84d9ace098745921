"""OPT and GPT-NeoX against transformers' classes.

Outputs, loss, every gradient, there and back; options without a counterpart; published folders.
"""

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    OPTConfig,
    OPTForCausalLM,
    OPTModel,
)

from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import Values

from .harness import (
    LAYERS,
    VOCAB,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    padded_batch,
    randomize,
)
from .test_decoder_only import causal

OPT = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": LAYERS, "ffn_dim": 48,
    "num_attention_heads": 4, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 2,
}  # fmt: skip
NEOX = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": LAYERS, "intermediate_size": 48,
    "num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def opt(**options):
    return causal(OPTForCausalLM, OPTConfig, **OPT | options)


def neox(**options):
    return causal(GPTNeoXForCausalLM, GPTNeoXConfig, **NEOX | options)


def rope(**options):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **options}}


CASES = {
    "opt": opt(),
    "opt_post": opt(do_layer_norm_before=False),
    "opt_post_gelu_untied": opt(
        do_layer_norm_before=False, activation_function="gelu", tie_word_embeddings=False
    ),
    "opt_no_bias": opt(enable_bias=False, dropout=0.2),
    "opt_no_final_norm": opt(_remove_final_layer_norm=True, pad_token_id=0),
    "neox": neox(),
    "neox_in_turn": neox(use_parallel_residual=False),
    "neox_whole_heads": neox(**rope(partial_rotary_factor=1.0), tie_word_embeddings=True),
    "neox_half_heads": neox(**rope(partial_rotary_factor=0.5, rope_theta=500.0)),
    "neox_no_bias": neox(attention_bias=False, hidden_act="gelu_new", layer_norm_eps=1e-3),
    "neox_linear": neox(**rope(rope_type="linear", factor=2.5, partial_rotary_factor=0.25)),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", list(CASES))
def test_outputs_loss_and_gradients_are_equal(name, attention, side, tmp_path):
    check_outputs_loss_and_gradients(CASES[name](attention, side), tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_there_and_back(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa", "right"), tmp_path)


@pytest.mark.parametrize(
    ("make", "options"),
    [(OPTModel, OPT), (OPTModel, OPT | {"do_layer_norm_before": False}), (GPTNeoXModel, NEOX)],
)
def test_a_body_answers_with_its_vectors(make, options, tmp_path):
    config = (OPTConfig if make is OPTModel else GPTNeoXConfig)(**options)
    theirs = make(config).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    source, ours = ours_from(tmp_path)
    assert source.architecture.name == make.__name__
    batch = padded_batch("left")
    del batch["token_type_ids"]
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected, found = theirs(**batch).last_hidden_state, ours.encode(batch)
    close(found[real], expected[real], "encoded")


@pytest.mark.parametrize(
    ("name", "make", "change", "message"),
    [
        ("OPTForCausalLM", OPTConfig, {"word_embed_proj_dim": 16}, "word_embed_proj_dim: 16"),
        ("OPTForCausalLM", OPTConfig, {"layer_norm_elementwise_affine": False}, "affine: False"),
        ("OPTForCausalLM", OPTConfig, {"layerdrop": 0.1}, "layerdrop: 0.1"),
        ("OPTForCausalLM", OPTConfig, {"activation_function": "tanh"}, "'tanh' has no counterpart"),
        ("GPTNeoXForCausalLM", GPTNeoXConfig, {"hidden_act": "tanh"}, "'tanh' has no counterpart"),
        (
            "GPTNeoXForCausalLM",
            GPTNeoXConfig,
            rope(rope_type="dynamic", factor=2.0),
            "'dynamic' has no counterpart",
        ),
    ],
)
def test_options_without_counterpart_are_refused(name, make, change, message):
    sizes = OPT if make is OPTConfig else NEOX
    values = make(**sizes | change).to_dict()
    with pytest.raises(InputError, match=message):
        find_architecture(name).read(Values(values), "config.json")


def test_the_blocks_of_neox_must_be_pre_norm():
    config = find_architecture("GPTNeoXForCausalLM").read(
        Values(GPTNeoXConfig(**NEOX).to_dict()), "config.json"
    )
    raw = config.model_dump() | {}
    raw["encoder"]["norm_position"] = "post"
    from orchestrator.config import validate_config

    with pytest.raises(ConfigError, match=r"encoder\.parallel: is for `norm_position: pre`"):
        validate_config(type(config), raw, "model")
