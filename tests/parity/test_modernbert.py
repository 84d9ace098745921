"""ModernBERT against transformers' classes: windows, bases, biases, heads, there and back."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertModel

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.folder import open_source

from .harness import (
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    padded_batch,
    randomize,
    token_labels,
)

FULL, NEAR = "full_attention", "sliding_attention"
PAD = 3
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "local_attention": 4,
    "pad_token_id": PAD,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
OPTIONS = {
    "plain": {},
    "bias": {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
    "mixed_bias": {"attention_bias": True, "decoder_bias": False},
    "mlp_bias": {"mlp_bias": True, "norm_eps": 1e-3},
    "untied": {"tie_word_embeddings": False},
    "activations": {"hidden_activation": "silu", "classifier_activation": "gelu_new"},
    "all_full": {"layer_types": [FULL] * 4},
    "all_near": {"layer_types": [NEAR] * 4, "local_attention": 3},
    "pattern": {"layer_types": [NEAR, FULL, NEAR, FULL], "local_attention": 0},
    "wide": {"local_attention": 128},
    "bases": {
        "rope_parameters": {
            FULL: {"rope_theta": 300.0, **YARN},
            NEAR: {"rope_theta": 7.0, "rope_type": "linear", "factor": 3.0},
        }
    },
}


def build(cls, attention, **options):
    return cls(ModernBertConfig(**SIZES | options, attn_implementation=attention))


def masked(**options):
    def case(attention, side):
        batch = padded_batch(side, first=4, pad=PAD)
        del batch["token_type_ids"]
        labels = token_labels(batch["attention_mask"])
        return Case(
            build(ModernBertForMaskedLM, attention, **options),
            batch | {"labels": labels},
            batch | {"labels.mlm": labels},
            {"mlm": lambda o: o.logits},
            {"mlm": batch["attention_mask"].bool()},
        )

    return case


def headless(attention, side):
    batch = padded_batch(side, first=4, pad=PAD)
    del batch["token_type_ids"]
    return Case(build(ModernBertModel, attention), batch, batch, {})


CASES = {f"modernbert_{name}": masked(**options) for name, options in OPTIONS.items()}
BODIES = {"modernbert_body": headless}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(CASES))
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    check_outputs_loss_and_gradients(CASES[name](attention, side), tmp_path, attention)


@pytest.mark.parametrize("name", [*CASES, *BODIES])
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back((CASES | BODIES)[name]("sdpa", "right"), tmp_path)


@pytest.mark.parametrize("length", [5, 300])
def test_the_body_reads_inputs_longer_than_window_and_training(length, tmp_path):
    """All positions at once, and padded on either side."""
    theirs = build(ModernBertModel, "sdpa", local_attention=6).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    ids = torch.randint(4, VOCAB, (3, length))
    mask = torch.ones_like(ids)
    mask[1, 2:], mask[2, :-3] = 0, 0
    for batch in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        real = batch.get("attention_mask", torch.ones_like(ids)).bool()
        expected = theirs(**batch).last_hidden_state
        close(ours.encode(batch)[real], expected[real], "hidden")


OLD = {
    "architectures": ["ModernBertModel"],
    "model_type": "modernbert",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 500.0,
    "local_rope_theta": 50.0,
    "local_attention": 9,
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-5,
    "sparse_prediction": True,
    "reference_compile": False,
}
"""Keys of the folders that were published before transformers 5."""


def read(folder, **values):
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(OLD | values))
    return open_source(folder).config


def test_keys_of_published_folders_are_read(tmp_path):
    encoder = read(tmp_path).encoder
    assert encoder.window_layers == (1, 3)
    assert (encoder.rotary.theta, encoder.window_rotary.theta) == (500.0, 50.0)
    assert encoder.window == 5
    assert encoder.activation == "gelu"


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("local_attention: -1 is not supported", {"local_attention": -1}),
        ("hidden_activation: 'mish' has no counterpart", {"hidden_activation": "mish"}),
        (
            "rope_type: 'dynamic' has no counterpart",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        ),
        ("partial_rotary_factor: 0.5", {"rope_scaling": {"partial_rotary_factor": 0.5}}),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(message, values, tmp_path):
    with pytest.raises(InputError, match=message):
        read(tmp_path, **values)
