"""Generation against transformers' ``generate``: the same tokens from the same random weights."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.modeling.generation.generate import drawable, generate

from .harness import BATCH, ours_from, padded_batch, randomize

VOCAB, EOS, PAD, NEW = 13, 2, 1, 12
TWO_SIDED = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "decoder_start_token_id": EOS,
}


def gpt2():
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    return GPT2LMHeadModel(config)


def llama():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=VOCAB, **sizes, intermediate_size=48, num_key_value_heads=2, pad_token_id=PAD
    )
    return LlamaForCausalLM(config)


def t5():
    sizes = {"d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2}
    config = T5Config(
        vocab_size=VOCAB, **sizes, num_heads=4, decoder_start_token_id=EOS, pad_token_id=PAD
    )
    return T5ForConditionalGeneration(config)


def bart():
    config = BartConfig(**TWO_SIDED, forced_eos_token_id=None, max_position_embeddings=32)
    return BartForConditionalGeneration(config)


def speech2text():
    lengths = {"max_source_positions": 60, "max_target_positions": 32}
    config = Speech2TextConfig(**TWO_SIDED, **lengths, conv_channels=24, input_feat_per_channel=10)
    return Speech2TextForConditionalGeneration(config)


def relative(cls, config_class, **options):
    """A relative of LLaMA, with windows and lengths that the texts grow past."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return cls(config_class(vocab_size=VOCAB, pad_token_id=PAD, **sizes | options))


FULL, SLIDING = "full_attention", "sliding_attention"
WINDOWS = {"sliding_window": 3, "layer_types": [SLIDING, FULL]}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 50.0,
    "short_factor": [1.0, 1.2, 1.5, 1.9],
    "long_factor": [1.5, 2.0, 4.0, 7.0],
}
RELATIVES = {
    "qwen3": lambda: relative(
        Qwen3ForCausalLM, Qwen3Config, head_dim=12, use_sliding_window=True, **WINDOWS
    ),
    "smollm3": lambda: relative(
        SmolLM3ForCausalLM, SmolLM3Config, no_rope_layers=[1, 0], use_sliding_window=True, **WINDOWS
    ),
    "olmo2": lambda: relative(Olmo2ForCausalLM, Olmo2Config),
    "phi3": lambda: relative(
        Phi3ForCausalLM,
        Phi3Config,
        sliding_window=4,
        rope_parameters=LONG,
        original_max_position_embeddings=15,
    ),
    "gemma2": lambda: relative(
        Gemma2ForCausalLM, Gemma2Config, head_dim=12, attn_logit_softcapping=2.0, **WINDOWS
    ),
    "gemma3": lambda: relative(
        Gemma3ForCausalLM, Gemma3TextConfig, head_dim=12, final_logit_softcapping=2.0, **WINDOWS
    ),
}
MODELS = {
    "gpt2": gpt2,
    "llama": llama,
    "t5": t5,
    "bart": bart,
    "speech2text": speech2text,
    **RELATIVES,
}


@functools.cache
def pair(name):
    """Return their model and ours with the same random tensors."""
    theirs = MODELS[name]().eval()
    randomize(theirs, seed=17)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, ours_from(Path(folder))[1]


def inputs(name, side="left"):
    if name == "speech2text":
        mask = (torch.arange(21) < torch.tensor([21, 9, 14, 18])[:, None]).long()
        generator = torch.Generator().manual_seed(5)
        features = torch.randn(BATCH, 21, 10, generator=generator) * mask[..., None]
        return {"input_features": features, "attention_mask": mask}
    batch = padded_batch(side, vocab=VOCAB, first=3, pad=PAD)
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


def their_tokens(theirs, batch, **options):
    """Return what they add to the text."""
    found = theirs.generate(
        **batch, max_new_tokens=NEW, eos_token_id=EOS, pad_token_id=PAD, **options
    )
    start = 1 if theirs.config.is_encoder_decoder else batch["input_ids"].shape[1]
    return up_to_end(found[:, start:])


def our_tokens(ours, batch, cached=True, **options):
    config = GenerationConfig(
        max_new_tokens=NEW, eos_token_ids=(EOS,), start_token_id=EOS, **options
    )
    found = generate(ours, batch, config, cached=cached, decode=letters)
    rows = zip(up_to_end(found.tokens), found.lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in rows]


def letters(ids):
    """Return one letter per token; end and padding have none."""
    return "".join(chr(ord("a") + i) for i in ids if i not in (EOS, PAD))


def up_to_end(tokens):
    """Leave out what follows the end token (beside padding, theirs fill with end tokens)."""
    rows = tokens.tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("cached", [True, False])
def test_greedy_tokens_are_theirs(name, cached):
    theirs, ours = pair(name)
    expected = their_tokens(theirs, inputs(name), do_sample=False)
    found = our_tokens(ours, inputs(name), cached=cached)
    assert found == expected


@pytest.mark.parametrize("name", list(RELATIVES))
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_padding_on_the_right_changes_no_token(name, options):
    _, ours = pair(name)
    left = inputs(name)
    order = (1 - left["attention_mask"]).argsort(dim=1, stable=True)
    right = {key: value.gather(1, order) for key, value in left.items()}
    assert not torch.equal(right["attention_mask"], left["attention_mask"])
    assert our_tokens(ours, right, **options) == our_tokens(ours, left, **options)


BEAMS = {
    "two": {"num_beams": 2},
    "all_returned": {"num_beams": 4, "num_return_sequences": 4},
    "long": {"num_beams": 3, "length_penalty": 2.0},
    "short": {"num_beams": 3, "length_penalty": -1.0},
    "early": {"num_beams": 4, "early_stopping": True, "num_return_sequences": 2},
    "never": {"num_beams": 4, "early_stopping": "never"},
    "never_short": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.0},
}


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("options", list(BEAMS))
def test_beams_are_theirs(name, options):
    theirs, ours = pair(name)
    expected = their_tokens(theirs, inputs(name), do_sample=False, **BEAMS[options])
    found = our_tokens(ours, inputs(name), **BEAMS[options])
    assert found == expected


def test_scores_of_beams_are_theirs():
    theirs, ours = pair("bart")
    options = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.7}
    result = theirs.generate(
        **inputs("bart"),
        max_new_tokens=NEW,
        eos_token_id=EOS,
        pad_token_id=PAD,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    config = GenerationConfig(
        max_new_tokens=NEW, eos_token_ids=(EOS,), start_token_id=EOS, **options
    )
    found = generate(ours, inputs("bart"), config).scores
    torch.testing.assert_close(found, result.sequences_scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.6},
        {"top_p": 0.01},
        {"top_k": 100},
        {"temperature": 1.8, "top_k": 7, "top_p": 0.8},
    ],
)
def test_distributions_that_are_drawn_from_are_theirs(options):
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(3)) * 3
    expected = logits
    if "temperature" in options:
        expected = TemperatureLogitsWarper(options["temperature"])(None, expected)
    if "top_k" in options:
        expected = TopKLogitsWarper(options["top_k"])(None, expected)
    if "top_p" in options:
        expected = TopPLogitsWarper(options["top_p"])(None, expected)
    found = drawable(logits, GenerationConfig(sample=True, **options))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repeated_tokens_are_penalized_as_theirs(name, options, penalty):
    """Of rows without padding, which theirs penalizes like a token that was written."""
    theirs, ours = pair(name)
    batch = {key: value[:1] for key, value in inputs(name).items()}
    batch = {key: value[:, batch["attention_mask"][0].bool()] for key, value in batch.items()}
    if name in ("t5", "bart"):
        batch = {key: value[:1] for key, value in inputs(name).items()}
    options = options | {"repetition_penalty": penalty}
    expected = their_tokens(theirs, batch, do_sample=False, **options)
    assert our_tokens(ours, batch, **options) == expected


def test_a_penalty_does_not_depend_on_padding():
    _, ours = pair("gpt2")
    options = {"repetition_penalty": 1.5}
    together = our_tokens(ours, inputs("gpt2"), **options)
    for row in range(BATCH):
        real = inputs("gpt2")["attention_mask"][row].bool()
        alone = {key: value[row : row + 1, real] for key, value in inputs("gpt2").items()}
        assert our_tokens(ours, alone, **options) == [together[row]]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart"])
@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_end_a_text_where_theirs_do(name, beams):
    theirs, ours = pair(name)
    options = {"num_beams": beams, "length_penalty": 2.0} if beams > 1 else {}
    texts = [letters(tokens) for tokens in our_tokens(ours, inputs(name), **options)]
    row = max(range(BATCH), key=lambda number: len(texts[number]))
    batch = {key: value[row : row + 1] for key, value in inputs(name).items()}
    text = texts[row]
    assert len(text) > 4
    stop = text[2:4]
    tokenizer = their_tokenizer()
    expected = their_tokens(
        theirs, batch, do_sample=False, stop_strings=[stop], tokenizer=tokenizer, **options
    )
    found = our_tokens(ours, batch, stop=(stop,), **options)
    assert letters(found[0]) == letters(expected[0])
    assert letters(found[0]) != text


def their_tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {chr(ord("a") + i): i for i in range(VOCAB)}
    own = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    own.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    own.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=own)
