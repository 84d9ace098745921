"""EuroBERT, Nomic BERT and GTE against transformers' classes: outputs, loss, gradients, folders."""

from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.folder import open_source

from .harness import (
    LAYERS,
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

PAD = 3
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
}
ROPE = {"rope_type": "default", "rope_theta": 300.0}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
EURO_BIAS = {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}
OPTIONS = {
    "EuroBert": {
        "plain": {},
        "bias": EURO_BIAS | {"hidden_act": "gelu"},
        "tied": {"tie_word_embeddings": True, "attention_bias": True},
        "scaled": {"rope_parameters": YARN | {"rope_theta": 50.0}, "mlp_bias": True},
    },
    "NomicBert": {
        "plain": {},
        "heads": {"head_dim": 6, "type_vocab_size": 2, "hidden_act": "gelu_new"},
        "scaled": {"rope_parameters": YARN | {"rope_theta": 50.0}, "layer_norm_eps": 1e-3},
    },
    "Gte": {
        "plain": {"type_vocab_size": 2},
        "no_segments": {"type_vocab_size": 0, "hidden_act": "silu"},
        "one_segment": {"type_vocab_size": 1, "rope_parameters": ROPE},
    },
}


def build(family, head, attention, **options):
    config = getattr(transformers, f"{family}Config")
    options = SIZES | options | {"attn_implementation": attention}
    return getattr(transformers, family + head)(config(**options))


def inputs(family, side, options):
    batch = padded_batch(side, first=4, pad=PAD)
    if family == "EuroBert" or options.get("type_vocab_size", 2) < 2:
        del batch["token_type_ids"]
    return batch


def masked(family, options, attention, side):
    batch = inputs(family, side, options)
    labels = token_labels(batch["attention_mask"])
    return Case(
        build(family, "ForMaskedLM", attention, **options),
        batch | {"labels": labels},
        batch | {"labels.mlm": labels},
        {"mlm": lambda o: o.logits},
        {"mlm": batch["attention_mask"].bool()},
    )


def classifier(family, options, attention, side):
    batch, labels = inputs(family, side, options), torch.tensor([0, 2, 1, 1])
    return Case(
        build(family, "ForSequenceClassification", attention, num_labels=3, **options),
        batch | {"labels": labels},
        batch | {"labels.cls": labels},
        {"cls": lambda o: o.logits},
    )


def tagger(family, options, attention, side):
    batch = inputs(family, side, options)
    labels = token_labels(batch["attention_mask"], 0.8, vocab=5)
    return Case(
        build(family, "ForTokenClassification", attention, num_labels=5, **options),
        batch | {"labels": labels},
        batch | {"labels.tags": labels},
        {"tags": lambda o: o.logits},
        {"tags": batch["attention_mask"].bool()},
    )


def headless(family, options, attention, side):
    batch = inputs(family, side, options)
    return Case(build(family, "Model", attention, **options), batch, batch, {})


CASES = {
    f"{family}_{name}_{head.__name__}": partial(head, family, options)
    for family, choices in OPTIONS.items()
    for name, options in choices.items()
    for head in (masked, classifier, tagger)
    if head is masked or name == "plain"
}
CASES |= {
    f"EuroBert_{pooling}": partial(classifier, "EuroBert", {"classifier_pooling": pooling})
    for pooling in ("bos", "mean")
}
BODIES = {
    f"{family}_body": partial(headless, family, OPTIONS[family]["plain"]) for family in OPTIONS
}
SIDED = [
    (name, side)
    for name in CASES
    for side in ("right", "left")
    # classifiers of theirs that read position 0 read padding there
    if side == "right" or not ("classifier" in name or "bos" in name) or "EuroBert_plain" in name
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "side"), SIDED)
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    check_outputs_loss_and_gradients(CASES[name](attention, side), tmp_path, attention)


@pytest.mark.parametrize("name", [*CASES, *BODIES])
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back((CASES | BODIES)[name]("sdpa", "right"), tmp_path)


@pytest.mark.parametrize("family", list(OPTIONS))
def test_a_body_reads_inputs_longer_than_in_training(family, tmp_path):
    theirs = build(family, "Model", "sdpa").eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    batch = {"input_ids": torch.randint(4, VOCAB, (2, 150))}
    if family != "EuroBert":
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    close(ours.encode(batch), theirs(**batch).last_hidden_state, "hidden")


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_a_folder_of_the_code_before_gte_is_read(head, tmp_path):
    """Their body was called ``new``."""
    theirs = build("Gte", head, "sdpa")
    theirs.save_pretrained(tmp_path)
    expected = ours_from(tmp_path)[1].state_dict()
    path = tmp_path / "model.safetensors"
    front = "" if head == "Model" else "gte."
    renamed = {
        f"new.{name.removeprefix(front)}" if name.startswith(front or name) else name: tensor
        for name, tensor in load_file(path).items()
    }
    assert any(name.startswith("new.") for name in renamed)
    save_file(renamed, path, metadata={"format": "pt"})
    found = ours_from(tmp_path)[1].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("family", "head", "message", "options"),
    [
        ("EuroBert", "Model", "hidden_act: 'mish' has no counterpart", {"hidden_act": "mish"}),
        ("Gte", "ForMaskedLM", "tie_word_embeddings: False", {"tie_word_embeddings": False}),
        ("NomicBert", "ForMaskedLM", "tie_word_embeddings: False", {"tie_word_embeddings": False}),
        (
            "NomicBert",
            "Model",
            "rope_type: 'dynamic' has no counterpart",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10.0}},
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(family, head, message, options, tmp_path):
    build(family, head, "sdpa", **options).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path)
