"""BERT's relatives and BERT's other heads against transformers' classes.

RoBERTa, XLM-R, ALBERT, ELECTRA, DistilBERT: outputs, loss, every gradient, there and back.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertModel,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    CamembertConfig,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForTokenClassification,
    ElectraModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig, read_config
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.folder import open_source
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from tests.support.checkpoints import read_tensors

from .harness import (
    BATCH,
    LAYERS,
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    files,
    ours_from,
    padded_batch,
    randomize,
    token_labels,
)

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
DISTILLED = {"dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48}
CLASSES = torch.tensor([0, 2, 1, 1])


EAGER = ("deberta", "deberta-v2", "mpnet")
"""Families whose classes have no fused attention."""


def build(cls, config_class, attention, **options):
    kernel = "eager" if config_class.model_type in EAGER else attention
    return cls(config_class(**SIZES | options, attn_implementation=kernel))


def inputs(config_class, side):
    """Return a batch as the class reads it: its padding id, its number of segments."""
    pad = config_class().pad_token_id
    batch = padded_batch(side, pad=pad)
    if config_class.model_type in ("distilbert", "mpnet"):
        del batch["token_type_ids"]
    if config_class in (XLMRobertaConfig, CamembertConfig):
        batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
    return batch


def masked(cls, config_class, twin="", **options):
    """Masked language modeling."""

    def case(attention, side):
        batch = inputs(config_class, side)
        labels = token_labels(batch["attention_mask"])
        return Case(
            build(cls, config_class, attention, **options),
            batch | {"labels": labels},
            batch | {"labels.mlm": labels},
            {"mlm": lambda o: o.logits},
            {"mlm": batch["attention_mask"].bool()},
            twin=twin,
        )

    return case


def classifier(cls, config_class, target="cls", labels=CLASSES, twin="", **options):
    """One answer, or several, for a sequence."""

    def case(attention, side):
        batch = inputs(config_class, side)
        return Case(
            build(cls, config_class, attention, **{"num_labels": 3} | options),
            batch | {"labels": labels},
            batch | {f"labels.{target}": labels},
            {target: lambda o: o.logits},
            twin=twin,
        )

    return case


def tagger(cls, config_class, twin="", **options):
    """One class for each token."""

    def case(attention, side):
        batch = inputs(config_class, side)
        labels = token_labels(batch["attention_mask"], 0.8, vocab=5)
        return Case(
            build(cls, config_class, attention, num_labels=5, **options),
            batch | {"labels": labels},
            batch | {"labels.tags": labels},
            {"tags": lambda o: o.logits},
            {"tags": batch["attention_mask"].bool()},
            twin=twin,
        )

    return case


def albert(attention, side):
    batch = inputs(AlbertConfig, side)
    labels, order = token_labels(batch["attention_mask"]), torch.tensor([0, 1, 1, 0])
    return Case(
        build(AlbertForPreTraining, AlbertConfig, attention, embedding_size=20),
        batch | {"labels": labels, "sentence_order_label": order},
        batch | {"labels.mlm": labels, "labels.sop": order},
        {"mlm": lambda o: o.prediction_logits, "sop": lambda o: o.sop_logits},
        {"mlm": batch["attention_mask"].bool()},
    )


def discriminator(attention, side, embedding_size=20):
    """Their labels cover padding, which the mask takes out; ours are -100 there."""
    batch = inputs(ElectraConfig, side)
    labels = torch.randint(0, 2, (BATCH, 12), generator=torch.Generator().manual_seed(2))
    real = batch["attention_mask"].bool()
    return Case(
        build(ElectraForPreTraining, ElectraConfig, attention, embedding_size=embedding_size),
        batch | {"labels": labels},
        batch | {"labels.rtd": torch.where(real, labels, -100)},
        {"rtd": lambda o: o.logits},
        {"rtd": real},
    )


SEVERAL = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
NUMBERS = torch.tensor([0.5, -1.25, 3.0, 0.0])
CASES = {
    "roberta": masked(RobertaForMaskedLM, RobertaConfig),
    "roberta_classifier": classifier(RobertaForSequenceClassification, RobertaConfig),
    "roberta_tagger": tagger(RobertaForTokenClassification, RobertaConfig),
    "xlm_roberta": masked(
        XLMRobertaForMaskedLM, XLMRobertaConfig, twin="RobertaForMaskedLM", type_vocab_size=1
    ),
    "albert": albert,
    "albert_mlm": masked(AlbertForMaskedLM, AlbertConfig, embedding_size=20),
    "albert_classifier": classifier(
        AlbertForSequenceClassification, AlbertConfig, embedding_size=20
    ),
    "electra": discriminator,
    "electra_wide": lambda attention, side: discriminator(attention, side, embedding_size=32),
    "electra_generator": masked(ElectraForMaskedLM, ElectraConfig, embedding_size=20),
    "electra_tagger": tagger(ElectraForTokenClassification, ElectraConfig, embedding_size=20),
    "albert_tagger": tagger(AlbertForTokenClassification, AlbertConfig, embedding_size=20),
    "distilbert": masked(DistilBertForMaskedLM, DistilBertConfig, **DISTILLED),
    "distilbert_classifier": classifier(
        DistilBertForSequenceClassification, DistilBertConfig, **DISTILLED
    ),
    "distilbert_tagger": tagger(DistilBertForTokenClassification, DistilBertConfig, **DISTILLED),
    "bert_tagger": tagger(BertForTokenClassification, BertConfig),
    "bert_multilabel": classifier(
        BertForSequenceClassification,
        BertConfig,
        target="multilabel",
        labels=SEVERAL,
        problem_type="multi_label_classification",
    ),
    "bert_regression": classifier(
        BertForSequenceClassification,
        BertConfig,
        target="regression",
        labels=NUMBERS,
        num_labels=1,
        problem_type="regression",
    ),
}
# Heads that read the first column read padding when rows are padded on the left.
FREE_OF_SIDE = (
    "roberta",
    "roberta_tagger",
    "xlm_roberta",
    "albert_mlm",
    "electra",
    "electra_generator",
    "distilbert",
    "bert_tagger",
)
SIDES = [(name, "right") for name in CASES] + [(name, "left") for name in FREE_OF_SIDE]


@pytest.mark.parametrize(("name", "side"), SIDES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    case = CASES[name](attention, side)
    check_outputs_loss_and_gradients(case, tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa", "right"), tmp_path)


def headless(cls, config_class, pooler=True, **options):
    batch = inputs(config_class, "right")
    logits = {"vector": lambda o: o.pooler_output} if pooler else {}
    return Case(build(cls, config_class, "sdpa", **options), batch, batch, logits)


HEADLESS = {
    "bert": lambda: headless(BertModel, BertConfig),
    "roberta": lambda: headless(RobertaModel, RobertaConfig),
    "albert": lambda: headless(AlbertModel, AlbertConfig, embedding_size=20),
    "electra": lambda: headless(ElectraModel, ElectraConfig, pooler=False, embedding_size=20),
    "distilbert": lambda: headless(DistilBertModel, DistilBertConfig, pooler=False, **DISTILLED),
}


@pytest.mark.parametrize("name", list(HEADLESS))
def test_a_model_without_head_keeps_its_pooler(name, tmp_path):
    case = HEADLESS[name]()
    randomize(case.theirs.eval())
    case.theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    expected = case.theirs(**case.their_inputs)
    real = case.batch["attention_mask"].bool()
    close(ours.encode(case.batch)[real], expected.last_hidden_state[real], "hidden")
    for target, get in case.logits.items():
        close(ours.predict(case.batch)[target], get(expected), target)
    assert set(ours.targets) == set(case.logits)
    assert not ours(case.batch)


@pytest.mark.parametrize("name", list(HEADLESS))
def test_a_model_without_head_goes_there_and_back(name, tmp_path):
    check_there_and_back(HEADLESS[name](), tmp_path)


def test_siamese_mean_pooling_equals_bert_and_a_masked_mean(tmp_path):
    """SBERT: one encoder for both texts, one vector each, the mean of its real positions."""
    theirs = build(BertModel, BertConfig, "sdpa").eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    source, read = ours_from(tmp_path)
    raw = source.config.model_dump() | {"target": {"type": "vector", "pooling": "mean"}}
    ours = build_model(validate_config(ModelConfig, raw, "sbert")).eval()
    missing, unexpected = ours.load_state_dict(read.state_dict(), strict=False)
    assert not missing
    assert set(unexpected) == {"targets.vector.dense.weight", "targets.vector.dense.bias"}
    for side in ("right", "left"):
        batch = padded_batch(side)
        hidden = theirs(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        close(ours.predict(batch)["vector"], (hidden * mask).sum(1) / mask.sum(1), side)


def test_positions_of_roberta_leave_out_the_reserved_rows(tmp_path):
    theirs = build(RobertaForMaskedLM, RobertaConfig, "sdpa")
    theirs.save_pretrained(tmp_path)
    config = open_source(tmp_path).config
    assert config.max_position_embeddings == SIZES["max_position_embeddings"] - 2
    assert build_model(config).embedding.pos.weight.shape == (16, 32)


WITHOUT_POOLER = {
    "bert": (BertModel, BertConfig, {}),
    "roberta": (RobertaModel, RobertaConfig, {}),
    "albert": (AlbertModel, AlbertConfig, {"embedding_size": 20}),
}


@pytest.mark.parametrize("name", list(WITHOUT_POOLER))
def test_a_body_without_a_pooler_comes_in_and_goes_out(name, tmp_path):
    cls, config_class, options = WITHOUT_POOLER[name]
    theirs = cls(config_class(**SIZES, **options), add_pooling_layer=False).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'theirs'}", ImportOptions())
    assert read_config(package.path).target == ()
    export_package(package, tmp_path / "out")
    assert files(tmp_path / "theirs").keys() == files(tmp_path / "out").keys()
    batch = inputs(config_class, "right")
    opened = cls.from_pretrained(tmp_path / "out").eval()
    real = batch["attention_mask"].bool()
    expected = theirs(**batch).last_hidden_state[real]
    close(opened(**batch).last_hidden_state[real], expected, "hidden")


def test_a_body_saved_with_the_name_of_its_class_in_front_is_read(tmp_path):
    theirs = build(BertModel, BertConfig, "sdpa")
    theirs.save_pretrained(tmp_path)
    expected = read_tensors(open_source(tmp_path))
    file = tmp_path / "model.safetensors"
    longer = {f"bert.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(longer, file, metadata={"format": "pt"})
    found = read_tensors(open_source(tmp_path))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
