"""DeBERTa, DeBERTa-v2 and v3 against transformers' classes.

Outputs, loss, every gradient, there and back, long inputs, and what is refused.
"""

from functools import partial

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import DebertaConfig, DebertaV2Config

from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.peft import read_adapter
from orchestrator.modeling.huggingface.values import Values

from .harness import (
    BATCH,
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    randomize,
)
from .test_text_encoders import NUMBERS, SEVERAL, build, classifier, inputs, masked, tagger

V3 = {
    "relative_attention": True,
    "position_buckets": 4,
    "max_relative_positions": 9,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_size": 32,
}
V2 = V3 | {"share_att_key": False, "norm_rel_ebd": "none"}
CONVOLVED = V3 | {"conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2}
NARROW = V3 | {"embedding_size": 20, "position_biased_input": True, "type_vocab_size": 2}
FIRST = {
    "relative_attention": True,
    "max_relative_positions": 7,
    "pos_att_type": "c2p|p2c",
    "position_biased_input": False,
}
FAMILIES = {"Deberta": DebertaConfig, "DebertaV2": DebertaV2Config}


def of_class(make, family, head, **options):
    return make(getattr(transformers, family + head), FAMILIES[family], **options)


def answer(cls, config_class, **options):
    """First and last token of an answer; their loss is over padding too, so there is none."""

    def case(attention, side):
        batch = inputs(config_class, side)
        batch["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 7)
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        spans = torch.tensor([[0, 5], [3, 3], [2, 9], [0, 0]])
        return Case(
            build(cls, config_class, attention, **options),
            batch | {"start_positions": spans[:, 0], "end_positions": spans[:, 1]},
            batch | {"labels.span": spans},
            {"span": lambda o: torch.stack([o.start_logits, o.end_logits], dim=-1)},
        )

    return case


def choice(cls, config_class, **options):
    """Two rows of two choices."""

    def case(attention, side):
        batch = inputs(config_class, side)
        theirs = {name: value.view(2, 2, -1) for name, value in batch.items()}
        return Case(
            build(cls, config_class, attention, **options),
            theirs | {"labels": torch.tensor([1, 0])},
            batch | {"labels.choice": torch.tensor([1, 0])},
            {"choice": lambda o: o.logits.view(BATCH, 1)},
        )

    return case


def v2(make, head, **options):
    return of_class(make, "DebertaV2", head, **options)


def v1(make, head, **options):
    return of_class(make, "Deberta", head, **options)


CASES = {
    "v3": v2(masked, "ForMaskedLM", **V3),
    "v3_default_distance": v2(masked, "ForMaskedLM", **V3 | {"max_relative_positions": -1}),
    "v3_odd_buckets": v2(masked, "ForMaskedLM", **V3 | {"position_buckets": 5}),
    "v3_tagger": v2(tagger, "ForTokenClassification", **V3),
    "v3_answer": v2(answer, "ForQuestionAnswering", **V3),
    "v3_classifier": v2(classifier, "ForSequenceClassification", **V3, cls_dropout=0.3),
    "v3_tanh": v2(classifier, "ForSequenceClassification", **V3, pooler_hidden_act="tanh"),
    "v3_choice": v2(choice, "ForMultipleChoice", **V3),
    "v3_multilabel": v2(
        partial(classifier, target="multilabel", labels=SEVERAL),
        "ForSequenceClassification",
        **V3 | {"problem_type": "multi_label_classification"},
    ),
    "v3_regression": v2(
        partial(classifier, target="regression", labels=NUMBERS, num_labels=1),
        "ForSequenceClassification",
        **V3 | {"problem_type": "regression"},
    ),
    "v2": v2(masked, "ForMaskedLM", **V2),
    "v2_no_buckets": v2(masked, "ForMaskedLM", **V2 | {"position_buckets": -1}),
    "v2_content": v2(masked, "ForMaskedLM", **V2 | {"pos_att_type": ["c2p"]}),
    "v2_position": v2(masked, "ForMaskedLM", **V2 | {"pos_att_type": ["p2c"]}),
    "v2_shared_content": v2(masked, "ForMaskedLM", **V3 | {"pos_att_type": ["c2p"]}),
    "v2_convolution": v2(masked, "ForMaskedLM", **CONVOLVED),
    "v2_convolution_tanh": v2(tagger, "ForTokenClassification", **V2, conv_kernel_size=5),
    "v2_narrow": v2(masked, "ForMaskedLM", **NARROW),
    "v2_narrow_tagger": v2(tagger, "ForTokenClassification", **NARROW),
    "v2_act": v2(masked, "ForMaskedLM", **V3, hidden_act="relu", layer_norm_eps=1e-3),
    "v1": v1(masked, "ForMaskedLM", **FIRST),
    "v1_default_distance": v1(masked, "ForMaskedLM", **FIRST | {"max_relative_positions": -1}),
    "v1_content": v1(masked, "ForMaskedLM", **FIRST | {"pos_att_type": "c2p"}),
    "v1_position": v1(masked, "ForMaskedLM", **FIRST | {"pos_att_type": "p2c"}),
    "v1_narrow": v1(masked, "ForMaskedLM", **FIRST | {"embedding_size": 20}),
    "v1_tagger": v1(tagger, "ForTokenClassification", **FIRST),
    "v1_answer": v1(answer, "ForQuestionAnswering", **FIRST),
    "v1_classifier": v1(classifier, "ForSequenceClassification", **FIRST),
}
# Heads that read the first column read padding when rows are padded on the left.
FREE_OF_SIDE = [
    name
    for name in CASES
    if not name.endswith(("answer", "classifier", "tanh", "choice", "label", "regression"))
]
SIDES = [(name, "right") for name in CASES] + [(name, "left") for name in FREE_OF_SIDE]


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_outputs_loss_and_gradients_equal_the_reference(name, side, tmp_path):
    check_outputs_loss_and_gradients(CASES[name]("eager", side), tmp_path)


@pytest.mark.parametrize("name", ["v3", "v2_convolution", "v1"])
def test_the_plain_formula_equals_the_reference_too(name, tmp_path):
    check_outputs_loss_and_gradients(CASES[name]("eager", "right"), tmp_path, "eager")


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("eager", "right"), tmp_path)


def body(family, options, attention="eager", side="right", length=12):
    """A body without a head; of a longer sequence than there are positions, if wanted."""
    config_class = FAMILIES[family]
    batch = inputs(config_class, side)
    if length > batch["input_ids"].shape[1]:
        generator = torch.Generator().manual_seed(8)
        ids = torch.randint(1, VOCAB, (2, length), generator=generator)
        mask = (torch.arange(length) < torch.tensor([[length], [length - 5]])).long()
        batch = {"input_ids": ids * mask, "attention_mask": mask}
    theirs = build(getattr(transformers, f"{family}Model"), config_class, attention, **options)
    return Case(theirs, batch, batch, {})


BODIES = {
    "v3_body": lambda attention, side: body("DebertaV2", V3),
    "v2_body": lambda attention, side: body("DebertaV2", CONVOLVED),
    "v1_body": lambda attention, side: body("Deberta", FIRST),
}
# Only packages that were imported go out as these: a file's layout is not a part of a model, and
# without distances a plainer class is the same.
IMPORTED = {
    "v2_plain": v2(masked, "ForMaskedLM", type_vocab_size=2),
    "v1_plain": v1(masked, "ForMaskedLM", type_vocab_size=2),
    "v3_not_legacy": v2(masked, "ForMaskedLM", **V3, legacy=False),
    "v1_not_legacy": v1(masked, "ForMaskedLM", **FIRST, legacy=False),
}


@pytest.mark.parametrize("name", list(BODIES))
def test_a_body_goes_there_and_back(name, tmp_path):
    check_there_and_back(BODIES[name]("eager", "right"), tmp_path)


@pytest.mark.parametrize(
    ("family", "options"),
    [("DebertaV2", V3), ("DebertaV2", V2), ("DebertaV2", CONVOLVED), ("Deberta", FIRST)],
)
@pytest.mark.parametrize("length", [12, 70])
def test_sequences_are_as_long_as_one_likes(family, options, length, tmp_path):
    """70 positions are more than max_position_embeddings (16), and than distances have vectors."""
    case = body(family, options, length=length)
    randomize(case.theirs.eval())
    case.theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    real = case.batch["attention_mask"].bool()
    expected = case.theirs(**case.their_inputs).last_hidden_state
    close(ours.encode(case.batch)[real], expected[real], "hidden")


@pytest.mark.parametrize("name", list(IMPORTED))
def test_what_only_imported_models_are_equals_the_reference(name, tmp_path):
    check_outputs_loss_and_gradients(IMPORTED[name]("eager", "right"), tmp_path)


REFUSED = {
    "pos_att_type: .*p2p": {"pos_att_type": "c2p|p2p"},
    "pos_att_type: .*not supported with relative_attention: True": {"pos_att_type": None},
    "pos_att_type: .*not supported with relative_attention: False": {"relative_attention": False},
    "norm_rel_ebd: 'batch' is not supported": {"norm_rel_ebd": "batch"},
    "norm_rel_ebd: 'layer_norm' is not supported; only 'none' is": {
        "relative_attention": False,
        "pos_att_type": None,
    },
    "attention_head_size: 16 is not supported; only 8 is": {"attention_head_size": 16},
    "conv_act: 'softplus' has no counterpart": {"conv_kernel_size": 3, "conv_act": "softplus"},
    "pooler_hidden_size: 16 is not supported; only 32 is": {"pooler_hidden_size": 16},
    "pooler_dropout: 0.1 is not supported; only 0 is": {"pooler_dropout": 0.1},
    "pooler_hidden_act: 'silu' has no counterpart": {"pooler_hidden_act": "silu"},
    "hidden_act: 'mish' has no counterpart": {"hidden_act": "mish"},
}


def read(name, config):
    values = config.to_dict() | {"id2label": {"0": "no", "1": "yes"}}
    return find_architecture(name).read(Values(values), "test")


@pytest.mark.parametrize("message", list(REFUSED))
def test_options_that_cannot_be_expressed_are_refused_by_name(message):
    sizes = {"hidden_size": 32, "num_attention_heads": 4}
    config = DebertaV2Config(**sizes | V3 | REFUSED[message])
    with pytest.raises(InputError, match=message):
        read("DebertaV2ForSequenceClassification", config)


def test_other_options_that_cannot_be_expressed_are_refused():
    sizes = {"hidden_size": 32, "num_attention_heads": 4}
    config = DebertaV2Config(**sizes | V3, embedding_size=16, legacy=False)
    with pytest.raises(InputError, match="embedding_size: 16 is not supported; only 32 is"):
        read("DebertaV2ForMaskedLM", config)
    with pytest.raises(InputError, match="talking_head: True is not supported; only False is"):
        read("DebertaModel", DebertaConfig(**sizes | FIRST, talking_head=True))
    with pytest.raises(InputError, match="tie_word_embeddings: False is not supported"):
        read("DebertaV2ForMaskedLM", DebertaV2Config(**sizes | V3, tie_word_embeddings=False))
    with pytest.raises(ConfigError, match="kernel_size: 4 is even"):
        read("DebertaV2Model", DebertaV2Config(**sizes | V3, conv_kernel_size=4))
    few = DebertaV2Config(**sizes | V3 | {"position_buckets": 16})
    with pytest.raises(ConfigError, match="buckets: 16: half of them reach max_distance"):
        read("DebertaV2Model", few)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("v3_classifier", ["query_proj", "value_proj"]),
        ("v3_classifier", ["key_proj"]),
        ("v2_tagger", ["query_proj", "pos_key_proj", "pos_query_proj"]),
        ("v1_classifier", ["in_proj", "pos_proj"]),
    ],
)
def test_adapters_also_act_on_distances(name, layers, tmp_path):
    """Tokens and distances share adapted projections; the first version's are fused by head."""
    other = {"v2_tagger": v2(tagger, "ForTokenClassification", **V2)}
    case = (CASES | other)[name]("eager", "right")
    randomize(case.theirs.eval())
    case.theirs.save_pretrained(tmp_path / "base")
    _, ours = ours_from(tmp_path / "base")
    theirs = get_peft_model(case.theirs, LoraConfig(r=3, target_modules=layers)).eval()
    randomize(theirs)  # the adapters: nothing else is trained
    theirs.save_pretrained(tmp_path / "adapter")
    read_adapter(tmp_path / "adapter", ours, type(case.theirs).__name__)
    ((target, get),) = case.logits.items()
    where = case.where.get(target, slice(None))
    found = ours.predict(case.batch)[target][where]
    close(found, get(theirs(**case.their_inputs))[where], target)
