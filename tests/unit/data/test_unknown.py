"""The share of tokens that a tokenizer does not know is counted and said, above 1 %."""

import json
import logging

import numpy as np
import pytest

from orchestrator.data.corpora.corpus import open_corpus, prepare_corpus
from orchestrator.data.corpora.examples_corpus import prepare_examples
from orchestrator.data.corpora.labelled_corpus import prepare_labelled
from orchestrator.data.media.inputs import ModelInputs
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.unknown import unknown_note, unknown_share
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.kinds import TextPairsConfig
from orchestrator.data.spec import CorpusConfig, DatasetSpec, TokenizerConfig

UNK = 1


@pytest.fixture
def chinese(tmp_path):
    """Texts with 2,000 different characters."""
    rng = np.random.default_rng(0)
    path = tmp_path / "chinese.jsonl"
    texts = ["".join(map(chr, rng.integers(0x4E00, 0x4E00 + 2000, 30))) for _ in range(200)]
    rows = [{"text": t, "text_b": t[::-1], "label": i % 2} for i, t in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def config(path, kind="wordpiece", size=1500):
    return CorpusConfig(
        data=DatasetSpec(source=f"files:{path}"),
        tokenizer=TokenizerConfig(type=kind, vocab_size=size),
        block_size=16,
    )


def test_unknown_tokens_of_a_corpus_are_counted(tmp_path, chinese):
    corpus = prepare_corpus(config(chinese), tmp_path)
    ids = [split.rows(np.arange(len(split))) for split in (corpus.train, corpus.validation)]
    assert corpus.manifest.unknown == sum((each == UNK).sum() for each in ids)
    assert corpus.unknown_share == pytest.approx(
        corpus.manifest.unknown / sum((each > 4).sum() + (each == UNK).sum() for each in ids)
    )
    assert corpus.unknown_share > 0.8
    assert open_corpus(corpus.path).unknown_share == corpus.unknown_share


@pytest.mark.parametrize(("kind", "size"), [("bpe", 1500), ("characters", 4096)])
def test_a_tokenizer_that_knows_all_has_none(tmp_path, chinese, kind, size):
    corpus = prepare_corpus(config(chinese, kind, size), tmp_path)
    assert (corpus.unknown_share == 0) == (kind == "bpe")


def test_corpora_of_earlier_versions_open(tmp_path, chinese):
    corpus = prepare_corpus(config(chinese), tmp_path)
    manifest = corpus.path / "manifest.json"
    stored = json.loads(manifest.read_text())
    del stored["unknown"], stored["repaired"]
    manifest.write_text(json.dumps(stored))
    assert open_corpus(corpus.path).unknown_share == 0


def test_unknown_tokens_of_rows_and_examples_are_counted(tmp_path, chinese):
    rows = prepare_labelled(config(chinese), tmp_path)
    ids = rows.processor.encode(rows.train.texts + rows.train.pairs)
    share = sum(each.count(UNK) for each in ids) / sum(map(len, ids))
    assert rows.unknown_share == pytest.approx(share)
    assert rows.unknown_share > 0.8
    pairs = prepare_examples(config(chinese), TextPairsConfig(), ModelInputs(), tmp_path)
    ids = pairs.processor.words.encode(
        [json.loads(line)[name] for line in chinese.open() for name in ("text", "text_b")]
    )
    assert pairs.manifest.unknown == sum(each.count(UNK) for each in ids)


def test_a_share_is_estimated_from_rows_at_equal_distances():
    processor = TextProcessor.train(["known words only"], 300)
    texts = ["known"] * 60 + ["漢"] * 20 + ["words"] * 20
    rows = Rows(texts, None, np.zeros(100))
    assert unknown_share(processor, rows) == 0.2
    assert unknown_share(processor, rows, 10) == pytest.approx(0.2, abs=0.11)
    assert unknown_share(None, rows) is None
    assert unknown_share(processor, Rows([], None, np.zeros(3), pictures=[b""] * 3)) is None


def test_only_large_shares_are_said():
    assert unknown_note(None) is None
    assert unknown_note(0.01) is None
    assert unknown_note(0.22).startswith("22.0% of the tokens are [UNK]")


def test_pretraining_says_it(tmp_path, chinese, caplog):
    from orchestrator.config import validate_config
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.pretraining.inputs import prepare_inputs
    from orchestrator.pretraining.notes import notes_of

    settings = {
        "run": {"name": "x"},
        "package": {"name": "x"},
        "data": config(chinese).model_dump(mode="json", exclude_defaults=True),
        "model": {
            "hidden_size": 16,
            "embedding": {"parts": ["word", "pos"]},
            "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2},
            "target": ["mlm"],
        },
        "train": {"max_steps": 1},
    }
    caplog.set_level(logging.WARNING)
    inputs = prepare_inputs(validate_config(PretrainConfig, settings, "test"), tmp_path)
    assert "Raise data.tokenizer.vocab_size (1500; Chinese has thousands" in notes_of(inputs)[0]
