"""Tags, several labels and numbers: from every format to batches."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from orchestrator.data.corpora.labelled_corpus import prepare_labelled
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.samples.base import SampleInputs, build_samples
from orchestrator.data.samples.kinds import LabelledConfig
from orchestrator.data.sources.opening import load_task, open_documents
from orchestrator.data.spec import CorpusConfig, DatasetSpec
from orchestrator.errors import InputError


def build(config, *inputs):
    return build_samples(config, SampleInputs(*inputs))


TAGS = ("O", "B-PER", "I-PER", "B-LOC")
SENTENCES = [
    (["Mr", "Smith", f"no{i}", "lives", "in", "Paris"], ["O", "B-PER", "I-PER", "O", "O", "B-LOC"])
    for i in range(20)
]


def task(path, form, **columns):
    columns = {"max_bad_share": 1.0, **columns}
    return load_task(DatasetSpec(source=f"files:{path}", **columns), form=FORMS[form])


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def write(folder, name):
    """Write the sentences in a format."""
    path = folder / name
    words, tags = zip(*SENTENCES, strict=True)
    if name.endswith(".jsonl"):
        return lines(path, [{"tokens": w, "ner_tags": t} for w, t in SENTENCES])
    if name.endswith(".parquet"):
        pd.DataFrame({"words": words, "labels": tags}).to_parquet(path)
    elif name.endswith(".tsv"):
        rows = [f"{' '.join(w)}\t{' '.join(t)}" for w, t in SENTENCES]
        path.write_text("text_a\tlabel\n" + "\n".join(rows))
    else:
        rows = ["\n".join(f"{a} NN {b}" for a, b in zip(w, t, strict=True)) for w, t in SENTENCES]
        path.write_text("-DOCSTART- -X- O\n\n" + "\r\n \n\n".join(rows))
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.tsv", "x.conll"])
def test_every_format_gives_the_same_tags(tmp_path, name):
    data = task(write(tmp_path, name), "tags")
    assert data.label_names == tuple(sorted(TAGS))
    found = [
        (words, [data.label_names[tag] for tag in tags])
        for split in ("train", "validation", "test")
        for words, tags in zip(data.split(split).words, data.split(split).labels, strict=True)
    ]
    assert sorted(found) == sorted(SENTENCES)
    assert len(data.validation) == 2
    assert len(data.test) == 4
    assert data.rejected == {}


def test_sentences_of_conll_are_documents_too(tmp_path):
    documents = list(open_documents(DatasetSpec(source=f"files:{write(tmp_path, 'x.conll')}")))
    assert documents == [" ".join(words) for words, _ in SENTENCES]


def test_unusable_tags_are_counted_by_reason(tmp_path):
    bad = [
        {"tokens": ["a", "b"], "ner_tags": ["O"]},
        {"tokens": ["a", " "], "ner_tags": ["O", "O"]},
        {"tokens": [], "ner_tags": []},
        {"tokens": ["a"], "ner_tags": [None]},
        {"tokens": ["a"], "ner_tags": 3},
        {"tokens": ["a"]},
        {"tokens": SENTENCES[0][0], "ner_tags": SENTENCES[0][1]},
    ]
    good = [{"tokens": w, "ner_tags": t} for w, t in SENTENCES]
    assert task(lines(tmp_path / "x.jsonl", [*good, *bad]), "tags").rejected == {
        "another number of tags than words": 1,
        "text is not a list of words": 1,
        "text missing": 1,
        "label is not a list of words": 2,
        "label missing": 1,
        "repeated": 1,
    }
    conll = write(tmp_path, "x.conll")
    added = [
        "alone\nword O",
        "# NN O\nyes NN O",
        "# id 7\tsource=news\n# a b c\nno NN O",
        "# x\n# y z",
    ]
    conll.write_text("\n\n".join([conll.read_text(), *added]))
    data = task(conll, "tags")
    assert data.rejected == {
        "word without a tag or with other columns than its sentence": 1,
        "only a comment": 1,
    }
    parts = (data.split(split).words for split in ("train", "validation", "test"))
    texts = [words for part in parts for words in part]
    assert len(texts) == len(SENTENCES) + 2
    assert ["#", "yes"] in texts
    assert ["no"] in texts


@pytest.mark.parametrize("name", ["x.jsonl", "x.tsv"])
def test_several_labels_may_be_none(tmp_path, name):
    rows = [(f"text {i}", ["sad", "odd", "odd"][: i % 4]) for i in range(40)]
    if name == "x.tsv":
        text = "".join(f"{text}\t{' | '.join(labels)}\n" for text, labels in rows)
        (tmp_path / name).write_text("text\tlabels\n" + text)
    else:
        lines(tmp_path / name, [{"text": text, "labels": labels} for text, labels in rows])
    data = task(tmp_path / name, "multilabel")
    assert data.label_names == ("odd", "sad")
    found = {
        text: labels.tolist()
        for split in ("train", "validation", "test")
        for text, labels in zip(data.split(split).texts, data.split(split).labels, strict=True)
    }
    assert found == {text: [int("odd" in names), int("sad" in names)] for text, names in rows}


def test_numbers_must_be_finite_in_single_precision(tmp_path):
    rows = [{"text": f"text {i}", "score": i / 7} for i in range(20)]
    strange = [math.nan, math.inf, 1e39, "-inf", None, "much", True, []]
    bad = [{"text": f"strange {i}", "score": value} for i, value in enumerate(strange)]
    data = task(lines(tmp_path / "x.jsonl", [*rows, *bad]), "regression")
    assert data.rejected == {
        "label is not finite": 4,
        "label missing": 2,
        "label is not a number": 2,
    }
    assert data.train.labels.dtype == np.float32
    assert data.train.labels.shape == (14, 1)
    assert data.label_names == ()
    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"t{i},{i}|0.5\n" for i in range(9)))
    assert task(tmp_path / "x.csv", "regression").train.labels.shape == (6, 2)


@pytest.mark.parametrize(
    ("form", "rows", "words"),
    [
        ("tags", [{"text": f"a {i}", "tags": "O O"} for i in range(9)], ["1 tag ('O')", "two"]),
        ("tags", [{"text": "a", "tags": "O"}, {"text": "b", "tags": "X"}], ["2 rows", "3"]),
        ("tags", [{"word": "a", "tags": "O"}], ["tokens, words, text", "text_column"]),
        ("tags", [{"words": "a", "tag": "O"}], ["tags, ner_tags, label", "label_column"]),
        ("tags", [{"tokens": [], "tags": []}], ["no rows in train", "1 × text missing"]),
        ("multilabel", [{"text": "a", "label": []}], ["0 labels (none)", "one"]),
        ("regression", [{"text": "a", "label": 1}, {"text": "b", "label": [1, 2]}], ["2 numbers"]),
    ],
)
def test_bad_files_get_one_clear_error(tmp_path, form, rows, words):
    with pytest.raises(InputError) as caught:
        task(lines(tmp_path / "x.jsonl", rows), form)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_tag_that_train_does_not_have_is_named(tmp_path):
    write(tmp_path, "train.tsv")
    (tmp_path / "dev.tsv").write_text("text_a\tlabel\nto Rome\tO B-LOX\n")
    with pytest.raises(InputError, match=r"'B-LOX' occurs in validation but not in train\. Did"):
        task(tmp_path, "tags")


class Split(list):
    """Rows with the two attributes of a data set of the Hub that are read."""

    column_names = ("tokens", "ner_tags")
    feature = SimpleNamespace(feature=SimpleNamespace(names=list(TAGS)))

    @property
    def features(self):
        return {"ner_tags": self.feature}


def test_tags_of_the_hub_have_the_names_of_their_feature(monkeypatch):
    rows = Split(
        {"tokens": words, "ner_tags": [TAGS.index(tag) for tag in tags]}
        for words, tags in SENTENCES
    )
    found = SimpleNamespace(load_dataset=lambda *_, **__: {"train": rows})
    monkeypatch.setitem(sys.modules, "datasets", found)
    data = load_task(DatasetSpec(source="hf:owner/set", revision="a"), form=FORMS["tags"])
    assert data.label_names == TAGS
    assert data.train.labels[0].tolist() == [0, 1, 2, 0, 0, 3]


WORDS = ["Unforeseen", "events", "(in", "Côte-d'Ivoire)", "don't", "周末", "repeat"]


def begins(tokenizer, words):
    """Return the first token of each word, or of the blank before it, in the running text."""
    encoding = tokenizer.encode(" ".join(words))
    ends = [end for _, end in encoding.offsets]
    places = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    return [next(i for i, end in enumerate(ends) if end >= max(place, 1)) for place in places]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_words_are_tokenized_as_in_running_text_and_know_where_they_begin(texts, kind):
    made = TextProcessor.train([*texts, " ".join(WORDS[:4])], 300, kind, max_length=64)
    rows = [WORDS, WORDS[:1], WORDS * 9]
    arrays, starts = made.word_arrays(rows)
    plain = made.arrays([" ".join(row) for row in rows], side="right")
    for name in plain:
        assert (arrays[name] == plain[name]).all()
    for row, place in zip(rows, starts, strict=True):
        expected = [i for i in begins(made.tokenizer, row) if i < 63]  # the last one is [SEP]
        assert np.flatnonzero(place >= 0).tolist() == expected
        assert place[expected].tolist() == list(range(len(expected)))
        if kind == "wordpiece":  # the others read a blank before a word
            ids = made.tokenizer.encode(row, is_pretokenized=True).word_ids[:63]
            found = [i for i, word in enumerate(ids) if word is not None and word not in ids[:i]]
            assert found == expected


@pytest.fixture
def tagged(tmp_path):
    rows = [
        {
            "tokens": [*words, *["on"] * (12 if i == 0 else 0)],
            "tags": [*tags, *["O"] * 12 * (i == 0)],
        }
        for i, (words, tags) in enumerate(SENTENCES)
    ]
    config = {
        "data": {"source": f"files:{lines(tmp_path / 'x.jsonl', rows)}", "test_fraction": 0.01},
        "tokenizer": {"vocab_size": 300},
        "block_size": 16,
    }
    return CorpusConfig.model_validate(config)


def test_prepared_tags_go_into_batches_with_masked_words(tagged, tmp_path):
    made = prepare_labelled(tagged, tmp_path / "cache", FORMS["tags"])
    assert prepare_labelled(tagged, tmp_path / "cache", FORMS["tags"]).path == made.path
    assert made.manifest.cut.rows == 1
    names = {"tags": "ner", "mlm": "mlm"}
    samples = build(LabelledConfig(), made.train, made.processor, names, 3)
    whole = samples.collate(np.arange(len(samples)), 0)
    assert whole["labels.ner"].shape == whole["input_ids"].shape == whole["labels.mlm"].shape
    asked = sum(len(tags) for tags in made.train.labels) - made.manifest.cut.words
    assert (whole["labels.ner"] >= 0).sum() == asked
    short = next(i for i, tags in enumerate(made.train.labels) if len(tags) == 6)
    batch = samples.collate(np.asarray([short]), 0)
    labels = batch["labels.ner"][0]
    assert batch["labels.ner"].shape == batch["input_ids"].shape
    assert labels[labels >= 0].tolist() == made.train.labels[short].tolist()
    assert labels[0] == labels[-1] == -100
    counts = np.bincount(np.concatenate(made.train.labels), minlength=4) + 1
    asked = np.concatenate(made.validation.labels)
    assert made.unigram_entropy() == pytest.approx(-np.log(counts / counts.sum())[asked].mean())


def test_prepared_labels_and_numbers_are_what_was_read(tmp_path):
    rows = [{"text": f"text {i}", "label": [[], ["a"], ["a", "b"]][i % 3]} for i in range(30)]
    numbers = [{"text": f"text {i}", "label": [i / 3, -i]} for i in range(30)]
    made = {}
    for form, part in (("multilabel", rows), ("regression", numbers)):
        source = {"source": f"files:{lines(tmp_path / f'{form}.jsonl', part)}"}
        config = CorpusConfig.model_validate({"data": source, "tokenizer": {"vocab_size": 300}})
        made[form] = prepare_labelled(config, tmp_path / "cache", FORMS[form])
        expected = load_task(config.data, form=FORMS[form])
        assert (made[form].validation.labels == expected.validation.labels).all()
        samples = build(LabelledConfig(), made[form].train, made[form].processor, {form: form}, 3)
        batch = samples.collate(np.asarray([2, 0]), 0)
        assert (batch[f"labels.{form}"].numpy() == expected.train.labels[[2, 0]]).all()
    train, asked = made["multilabel"].train.labels, made["multilabel"].validation.labels
    yes = (train.sum(0) + 1) / (len(train) + 2)
    losses = [
        -math.log(p if flag else 1 - p) for row in asked for p, flag in zip(yes, row, strict=True)
    ]
    assert made["multilabel"].unigram_entropy() == pytest.approx(np.mean(losses))
    train, asked = made["regression"].train.labels, made["regression"].validation.labels
    squares = (asked.astype(np.float64) - train.astype(np.float64).mean(0)) ** 2
    assert made["regression"].unigram_entropy() == pytest.approx(squares.mean())
