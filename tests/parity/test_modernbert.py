"""ModernBERT against transformers' classes: windows, bases, biases, heads, there and back."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForMultipleChoice,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    ModernBertModel,
)

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


def plain_batch(side):
    batch = padded_batch(side, first=4, pad=PAD)
    del batch["token_type_ids"]
    return batch


def masked(**options):
    def case(attention, side):
        batch = plain_batch(side)
        labels = token_labels(batch["attention_mask"])
        return Case(
            build(ModernBertForMaskedLM, attention, **options),
            batch | {"labels": labels},
            batch | {"labels.mlm": labels},
            {"mlm": lambda o: o.logits},
            {"mlm": batch["attention_mask"].bool()},
        )

    return case


def classifier(target="cls", labels=(0, 2, 1, 1), **options):
    def case(attention, side):
        batch = plain_batch(side)
        labels_ = torch.as_tensor(labels)
        return Case(
            build(ModernBertForSequenceClassification, attention, **{"num_labels": 3} | options),
            batch | {"labels": labels_},
            batch | {f"labels.{target}": labels_},
            {target: lambda o: o.logits},
        )

    return case


def tagger(**options):
    def case(attention, side):
        batch = plain_batch(side)
        labels = token_labels(batch["attention_mask"], 0.8, vocab=5)
        return Case(
            build(ModernBertForTokenClassification, attention, num_labels=5, **options),
            batch | {"labels": labels},
            batch | {"labels.tags": labels},
            {"tags": lambda o: o.logits},
            {"tags": batch["attention_mask"].bool()},
        )

    return case


def answer(attention, side):
    """Without padding, over which their loss goes as well."""
    batch = plain_batch(side)
    batch["input_ids"][batch["input_ids"] == PAD] = 7  # whose row their table does not train
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    spans = torch.tensor([[0, 5], [1, 3], [0, 0], [2, 11]])
    return Case(
        build(ModernBertForQuestionAnswering, attention),
        batch | {"start_positions": spans[:, 0], "end_positions": spans[:, 1]},
        batch | {"labels.span": spans},
        {"span": lambda o: torch.stack([o.start_logits, o.end_logits], dim=-1)},
    )


def choice(pooling, attention, side):
    """Two rows of two choices."""
    batch = plain_batch(side)
    labels = torch.tensor([1, 0])
    return Case(
        build(ModernBertForMultipleChoice, attention, classifier_pooling=pooling),
        {name: value.view(2, 2, -1) for name, value in batch.items()} | {"labels": labels},
        batch | {"labels.choice": labels},
        {"choice": lambda o: o.logits.view(4, 1)},
    )


def headless(attention, side):
    batch = plain_batch(side)
    return Case(build(ModernBertModel, attention), batch, batch, {})


BIASES = {"classifier_bias": True, "norm_bias": True, "classifier_activation": "relu"}
SOME = ((1, 0, 1), (0, 0, 1), (1, 1, 1), (0, 0, 0))
MULTILABEL = {"problem_type": "multi_label_classification"}
CASES = {f"modernbert_{name}": masked(**options) for name, options in OPTIONS.items()}
CASES |= {
    "modernbert_cls": classifier(),
    "modernbert_cls_mean": classifier(classifier_pooling="mean", **BIASES),
    "modernbert_multilabel": classifier("multilabel", torch.tensor(SOME).float(), **MULTILABEL),
    "modernbert_regression": classifier(
        "regression", (0.1, -1.0, 2.0, 0.5), num_labels=1, classifier_pooling="mean"
    ),
    "modernbert_tags": tagger(),
    "modernbert_tags_bias": tagger(classifier_dropout=0.1, **BIASES),
    "modernbert_answer": answer,
    "modernbert_choice": partial(choice, "cls"),
    "modernbert_choice_mean": partial(choice, "mean"),
}
RIGHT_ONLY = ("modernbert_cls", "modernbert_multilabel")
"""Their classifier reads position 0, whatever stands there."""
SIDED = [
    (name, side)
    for name in CASES
    for side in ("right", "left")
    if side == "right" or name not in RIGHT_ONLY
]
BODIES = {"modernbert_body": headless}


@pytest.mark.parametrize("attention", ["sdpa", "eager", "unpadded"])
@pytest.mark.parametrize(("name", "side"), SIDED)
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    case = CASES[name]("eager" if attention == "eager" else "sdpa", side)
    check_outputs_loss_and_gradients(case, tmp_path, attention)


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


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "unpadded"])
def test_a_text_of_8192_tokens_gives_the_same_vectors(tmp_path, attention):
    """As long as the model reads, far past the window: chunks here, a dense mask there."""
    theirs = build(ModernBertModel, "sdpa", max_position_embeddings=8192, local_attention=128)
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path, attention)
    ids = torch.randint(4, VOCAB, (1, 8192), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        close(ours.encode(batch), theirs.eval()(**batch).last_hidden_state, "vectors")
