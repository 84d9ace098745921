"""Every kind of samples is built by its config and says how many come from each source."""

import numpy as np
import pytest

from orchestrator.data.corpora.corpus import prepare_corpus
from orchestrator.data.corpora.labelled_corpus import open_labelled, prepare_labelled
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import SampleInputs, build_samples
from orchestrator.data.samples.kinds import LabelledConfig, samples
from orchestrator.data.spec import CorpusConfig
from orchestrator.data.steps import StepSource
from orchestrator.errors import InputError, IntegrityError


def build(config, *inputs):
    return build_samples(config, SampleInputs(*inputs))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("builders")
    (path / "x.txt").write_text(
        "\n".join(f"{a}. {b}." for a, b in zip(texts, texts[1:] + texts[:1], strict=True))
    )
    config = CorpusConfig.model_validate(
        {
            "data": {"source": f"files:{path}/x.txt"},
            "tokenizer": {"vocab_size": 310, "sentinels": 8},
            "block_size": 32,
        }
    )
    return prepare_corpus(config, path / "cache")


def test_every_kind_has_a_class_that_builds_it():
    for name in samples.names():
        assert callable(samples.component_class(name).build)


KINDS = [kind for _, kind in samples.items()]
OF_BLOCKS = [kind for kind in KINDS if kind.reads == "blocks"]


@pytest.mark.parametrize("kind", OF_BLOCKS)
def test_samples_have_labels_for_their_targets_under_the_models_names(corpus, kind):
    targets = {name: f"my-{name}" for name in (kind.wants[0], *kind.also)}
    built = build(kind(), corpus.train, corpus.processor, targets, 3)
    assert built.parts == (len(built),)
    batch = StepSource(built, 4, 2, 1).window(0)[0]
    assert {f"labels.{name}" for name in targets.values()} == {
        key for key in batch if key.startswith("labels.")
    }
    assert ("decoder_input_ids" in batch) == kind.decoder
    assert all((batch[f"labels.{name}"] >= 0).any() for name in targets.values())
    again = build(kind(), corpus.train, corpus.processor, targets, 3)
    other = StepSource(again, 4, 2, 1).window(0)[0]
    assert all((batch[key] == other[key]).all() for key in batch)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.packs])
def test_blocks_can_keep_their_documents_apart(corpus, kind):
    targets = {kind.wants[0]: "t"}
    built = build(kind(), corpus.train, corpus.processor, targets, 3, "documents")
    batch = built.collate(np.arange(4), 0)
    assert batch["document_ids"].max() > 0
    assert (batch["position_ids"] == 0).sum() > 4


def test_a_class_and_masked_words_from_one_batch(processor):
    rows = Rows(["array shape axis tensor"] * 6, None, np.arange(6) % 2)
    targets = {"cls": "topic", "mlm": "words"}
    batch = build(LabelledConfig(), rows, processor, targets, 3).collate(np.arange(6), 0)
    assert batch["labels.topic"].tolist() == [0, 1] * 3
    assert ((batch["labels.words"] != -100).sum(1) >= 1).all()
    plain = build(LabelledConfig(), rows, processor, {"cls": "topic"}, 3)
    assert "labels.words" not in plain.collate(np.arange(6), 0)


def test_pairs_of_labelled_texts_go_into_two_streams_or_one(processor):
    rows = Rows(["array shape axis"] * 4, ["tensor"] * 4, np.arange(4) % 2)
    built = build(LabelledConfig(), rows, processor, {"siamese": "same"}, 3)
    batch = built.collate(np.asarray([1, 2]), 0)
    assert batch["labels.same"].tolist() == [1, 0]
    first, second = (processor.decode(batch[f"{s}input_ids"][0].tolist()) for s in ("", "second."))
    assert (first, second) == ("array shape axis", "tensor")
    one = build(LabelledConfig(), rows, processor, {"sp": "sp"}, 3).collate(np.arange(2), 0)
    assert processor.decode(one["input_ids"][0].tolist()) == "array shape axis tensor"
    assert one["labels.sp"].tolist() == [0, 1]
    with pytest.raises(InputError, match="no second text"):
        build(
            LabelledConfig(),
            Rows(["a"], None, np.zeros(1)),
            processor,
            {"siamese": "s"},
            3,
        )


@pytest.fixture
def table(tmp_path):
    lines = [
        f"{'up' if i % 2 else 'down'}\tnumber {i} is {'odd' if i % 2 else 'even'}"
        for i in range(60)
    ]
    (tmp_path / "rows.tsv").write_text("label\ttext\n" + "\n".join(lines))
    return CorpusConfig.model_validate(
        {
            "data": {"source": f"files:{tmp_path}/rows.tsv"},
            "tokenizer": {"vocab_size": 300},
            "block_size": 16,
        }
    )


def test_labelled_rows_are_made_once_with_their_tokenizer(table, tmp_path):
    made = prepare_labelled(table, tmp_path / "cache")
    assert prepare_labelled(table, tmp_path / "cache").path == made.path
    assert made.label_names == ("down", "up")
    assert made.documents == sum(made.manifest.rows.values())
    assert not set(made.train.texts) & set(made.validation.texts)
    assert made.processor.max_length == 16
    assert made.unigram_entropy() == pytest.approx(np.log(2), abs=0.02)
    made.form.require_size(made.label_names, made.train.labels, 2)
    with pytest.raises(InputError, match="have 2 classes, the target has num_labels 3"):
        made.form.require_size(made.label_names, made.train.labels, 3)


def test_damaged_rows_are_not_read_but_made_again(table, tmp_path):
    made = prepare_labelled(table, tmp_path / "cache")
    (made.path / "train.parquet").write_bytes(b"?")
    with pytest.raises(IntegrityError, match=r"train\.parquet"):
        open_labelled(made.path)
    again = prepare_labelled(table, tmp_path / "cache")
    assert again.path == made.path
    assert again.train.texts == made.train.texts
    assert [each.name for each in (tmp_path / "cache").glob("rows-*")] == [made.path.name]


def test_images_are_kept_as_they_are(tmp_path):
    config = CorpusConfig.model_validate({"data": {"source": "builtin:digits"}})
    made = prepare_labelled(config, tmp_path / "cache")
    assert made.train.images.shape[1:] == (1, 8, 8)
    # a picture in bytes becomes the numbers that were trained on
    picture = (made.train.images[0, 0] * 255).round().astype(np.uint8)
    found = made.processor.arrays([picture])["pixel_values"][0]
    assert found == pytest.approx(made.train.images[0], abs=0.003)
