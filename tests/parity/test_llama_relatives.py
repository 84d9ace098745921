"""Later relatives of LLaMA against transformers' classes: outputs, loss, gradients, and back.

Qwen3, SmolLM3, OLMo 2, Phi-3, Gemma 2 and Gemma 3.
"""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma3TextModel,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import WordConfig
from orchestrator.modeling.embeddings.stack import EmbeddingStack
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import Values

from .harness import (
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    padded_batch,
    randomize,
)
from .test_decoder_only import ROPE, SIZES, causal

FULL, SLIDING = "full_attention", "sliding_attention"
FOUR = SIZES | {"num_hidden_layers": 4, "pad_token_id": None}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}
PHI = SIZES | {"pad_token_id": 0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.2, 1.5, 1.9],
    "long_factor": [1.5, 2.0, 4.0, 7.0],
}
GEMMA = SIZES | {"head_dim": 12, "query_pre_attn_scalar": 7, "pad_token_id": 0}
TWO_BASES = {
    FULL: {"rope_type": "linear", "rope_theta": 900.0, "factor": 3.0},
    SLIDING: {"rope_type": "default", "rope_theta": 30.0},
}

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
    "phi3": causal(
        Phi3ForCausalLM, Phi3Config, twin="LlamaForCausalLM", **PHI, rope_parameters=ROPE
    ),
    "phi3_partial_window_tied": causal(
        Phi3ForCausalLM,
        Phi3Config,
        **PHI | {"hidden_size": 48, "num_key_value_heads": 4},
        rope_parameters=ROPE | {"partial_rotary_factor": 0.67},
        sliding_window=4,
        tie_word_embeddings=True,
    ),
    "phi3_long": causal(
        Phi3ForCausalLM,
        Phi3Config,
        **PHI,
        rope_parameters=LONG,
        original_max_position_embeddings=10,
    ),
    "phi3_short_of_long": causal(
        Phi3ForCausalLM,
        Phi3Config,
        **PHI | {"hidden_size": 64},
        rope_parameters=LONG | {"partial_rotary_factor": 0.5, "attention_factor": 1.3},
        original_max_position_embeddings=12,
    ),
    "gemma2": causal(Gemma2ForCausalLM, Gemma2Config, **GEMMA, sliding_window=4),
    "gemma2_untied_capped": causal(
        Gemma2ForCausalLM,
        Gemma2Config,
        **GEMMA | {"num_hidden_layers": 3, "query_pre_attn_scalar": 12},
        sliding_window=3,
        layer_types=[FULL, SLIDING, FULL],
        attention_bias=True,
        tie_word_embeddings=False,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=2.5,
        rope_parameters=YARN | {"original_max_position_embeddings": 16},
    ),
    "gemma2_uncapped": causal(
        Gemma2ForCausalLM,
        Gemma2Config,
        **GEMMA,
        layer_types=[FULL, FULL],
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        hidden_activation="silu",
    ),
    "gemma3": causal(
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        **GEMMA,
        sliding_window=4,
        layer_types=[SLIDING, FULL],
        rope_parameters=TWO_BASES,
    ),
    "gemma3_pattern_capped": causal(
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        **GEMMA | {"num_hidden_layers": 3},
        sliding_window=3,
        sliding_window_pattern=3,
        final_logit_softcapping=2.5,
        attention_bias=True,
        tie_word_embeddings=False,
    ),
    "gemma3_full": causal(
        Gemma3ForCausalLM, Gemma3TextConfig, **GEMMA, layer_types=[FULL, FULL], rms_norm_eps=1e-3
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


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("window", [2, 7, 40])
def test_a_body_that_reads_both_sides_is_embedding_gemma(window, side, tmp_path):
    """Its config counts both sides of the window, and halves it when it is read."""
    config = Gemma3TextConfig(
        **GEMMA,
        use_bidirectional_attention=True,
        sliding_window=window,
        layer_types=[SLIDING, FULL],
        rope_parameters=TWO_BASES,
    )
    batch = padded_batch(side)
    del batch["token_type_ids"]
    case = Case(Gemma3TextModel(config), batch, batch, {"hidden": lambda o: o.last_hidden_state})
    check_there_and_back(case, tmp_path)
    _, ours = ours_from(tmp_path / "first")
    assert ours.config.encoder.window == window // 2 + 1
    real = batch["attention_mask"].bool()
    expected = case.theirs(**batch).last_hidden_state[real]
    close(ours.encode(batch)[real], expected, "hidden")
    expected.square().sum().backward()
    ours.encode(batch)[real].square().sum().backward()
    theirs = dict(case.theirs.named_parameters())
    ((name, table),) = [(n, p) for n, p in theirs.items() if n.endswith("embed_tokens.weight")]
    close(ours.embedding.word.weight.grad, table.grad, name)


WIDE = Dimensions(
    hidden_size=48,
    vocab_size=VOCAB,
    max_position_embeddings=64,
    type_vocab_size=2,
    pad_token_id=0,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_words_are_scaled_by_a_factor_of_their_type(dtype):
    """sqrt(48) is 6.928 in fp32 and 6.938 in bf16."""
    config = Gemma2Config(**GEMMA | {"hidden_size": 48})
    theirs = Gemma2ForCausalLM(config).model.embed_tokens.to(dtype)
    part = WordConfig(scale="rounded")
    stack = {"parts": (part,), "layernorm": False, "dropout": 0.0}
    ours = EmbeddingStack(EmbeddingStackConfig(**stack), WIDE).to(dtype)
    with torch.no_grad():
        ours.word.weight.copy_(theirs.weight)
    ids = torch.arange(VOCAB)[None]
    assert torch.equal(ours({"input_ids": ids})[0], theirs(ids))
    plain = EmbeddingStack(
        EmbeddingStackConfig(**stack | {"parts": (WordConfig(scale=True),)}), WIDE
    ).to(dtype)
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(plain({"input_ids": ids})[0], theirs(ids)) == (dtype == torch.float32)


REFUSED = {
    "use_bidirectional_attention: true is not supported": (
        "Gemma2ForCausalLM",
        Gemma2Config(use_bidirectional_attention=True),
    ),
    "attn_logit_softcapping: 3.0 is not supported": (
        "Gemma3ForCausalLM",
        Gemma3TextConfig(attn_logit_softcapping=3.0),
    ),
    "rope_type: 'longrope' has no counterpart": (
        "Qwen3ForCausalLM",
        Qwen3Config(rope_parameters=LONG | {"original_max_position_embeddings": 9}),
    ),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_options_without_a_counterpart_are_refused_by_name(message):
    name, config = REFUSED[message]
    with pytest.raises(InputError, match=message):
        find_architecture(name).model_config(Values(config.to_dict()))


def test_a_causal_model_that_reads_both_sides_is_refused():
    theirs = Gemma3TextConfig(**GEMMA, use_bidirectional_attention=True)
    architecture = find_architecture("Gemma3ForCausalLM")
    with pytest.raises(ConfigError, match="needs an encoder whose outputs know earlier"):
        architecture.read(Values(theirs.to_dict()), "test")


LONG_TEXTS = [name for name in CASES if "window" in name or name.startswith(("gemma", "phi3"))]


@pytest.mark.parametrize("name", [*LONG_TEXTS, "qwen3_alternating"])
def test_texts_far_longer_than_windows_and_training_equal_the_reference(name, tmp_path):
    """150 tokens of a model for 64; blocks with a window read in chunks."""
    case = CASES[name]("sdpa", "right")
    theirs = case.theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    ids = torch.randint(2, VOCAB, (2, 150), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :40] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    expected, found = theirs(**batch).logits, ours.predict(batch)["lm"]
    close(found[mask.bool()], expected[mask.bool()], name)
    expected[mask.bool()].square().mean().backward()
    found[mask.bool()].square().mean().backward()
    close(ours.embedding.word.weight.grad, theirs.get_input_embeddings().weight.grad, name)
