"""OPT and GPT-NeoX against transformers' classes.

Outputs, loss, every gradient, there and back; options without a counterpart; published folders.
"""

import json

import pytest
import torch
import transformers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    OPTConfig,
    OPTForCausalLM,
    OPTModel,
)

import orchestrator
from orchestrator.config import validate_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.modeling.generation.generate import generate
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.huggingface.values import Values
from orchestrator.zoo import Zoo
from tests.support.lessons import job, run_here
from tests.support.published import saved_bytes, vocab_and_merges
from tests.support.streams import make_place

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


def test_a_parallel_block_is_pre_norm():
    config = find_architecture("GPTNeoXForCausalLM").read(
        Values(GPTNeoXConfig(**NEOX).to_dict()), "config.json"
    )
    raw = config.model_dump()
    raw["encoder"]["norm_position"] = "post"
    with pytest.raises(ConfigError, match=r"encoder\.parallel: is for `norm_position: pre`"):
        validate_config(ModelConfig, raw, "model")
    with pytest.raises(ConfigError, match="'parallel' is not a known key"):
        validate_config(TransformerDecoderConfig, {"parallel": True}, "decoder")


@pytest.mark.parametrize("name", ["opt", "opt_post", "neox"])
def test_generation_with_a_cache_gives_their_tokens(name, tmp_path):
    theirs = CASES[name]("sdpa", "left").theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    batch = {k: v[:, -6:] for k, v in padded_batch("left").items() if k != "token_type_ids"}
    batch["attention_mask"][:, -1] = 1
    expected = theirs.generate(
        **batch, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    found = generate(ours, batch, GenerationConfig(max_new_tokens=8)).tokens
    assert torch.equal(found, expected[:, 6:])


LONG = {"vocab_size": 340, "max_position_embeddings": 64}


def opt_folder(folder):
    OPTForCausalLM(OPTConfig(**OPT | LONG)).save_pretrained(folder)
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    config = names | {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}
    vocab_and_merges(folder, ("<s>", "<pad>", "</s>", "<unk>"), config)


def neox_folder(folder):
    GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX | LONG)).save_pretrained(folder)
    saved_bytes(folder, "GPTNeoXTokenizer", special=("<|endoftext|>",))


@pytest.mark.parametrize("published", [opt_folder, neox_folder])
def test_a_published_folder_is_finetuned_and_answers_as_in_transformers(published, tmp_path):
    place = tmp_path
    make_place(place)
    (place / "theirs").mkdir()
    torch.manual_seed(2)
    published(place / "theirs")
    zoo = Zoo(str(place / "zoo"))
    import_checkpoint(zoo, f"hf:{place / 'theirs'}", ImportOptions(name="theirs"))
    train = {"epochs": 1, "global_batch_size": 16, "max_length": 64, "exportable": True}
    run_here(job(place, package="theirs", train=train))
    rows = [json.loads(line) for line in (place / "task2.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows[:5]]
    answers = orchestrator.load("child", zoo=zoo.root).predict(texts)
    export_package(zoo.get("child"), place / "out")
    out = str(place / "out")
    again = transformers.pipeline("text-classification", model=out, tokenizer=out)(texts)
    for answer, expected in zip(answers, again, strict=True):
        assert answer.label == expected["label"]
        assert answer.score == pytest.approx(expected["score"], abs=1e-5)
