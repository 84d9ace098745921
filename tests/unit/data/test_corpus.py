import json

import numpy as np
import pytest

from orchestrator.data.corpora.blocks import BlockWriter, TokenBlocks
from orchestrator.data.corpora.corpus import open_corpus, prepare_corpus
from orchestrator.data.processors.roles import OURS
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.spec import CLS, PAD, SEP, CorpusConfig, DatasetSpec, TokenizerConfig
from orchestrator.errors import InputError, IntegrityError


@pytest.fixture
def source(tmp_path, texts):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([*texts, "", "   "]), encoding="utf-8")
    return file


def config(source, **changes):
    return CorpusConfig(
        data=DatasetSpec(source=f"files:{source}"),
        tokenizer=TokenizerConfig(vocab_size=300),
        block_size=16,
    ).model_copy(update=changes)


@pytest.fixture
def corpus(source, tmp_path):
    return prepare_corpus(config(source), tmp_path / "cache")


def stream_of(blocks):
    return blocks.rows(np.arange(len(blocks))).ravel()


def documents_in(blocks):
    """Documents of a stream, by its frames."""
    stream = stream_of(blocks)
    stream = stream[stream != PAD]
    starts = np.flatnonzero(stream == CLS)
    parts = np.split(stream, starts[1:])
    assert all(part[0] == CLS and part[-1] == SEP for part in parts)
    return [part[1:-1].tolist() for part in parts]


def test_no_document_and_no_token_is_lost(corpus, texts):
    found = documents_in(corpus.train) + documents_in(corpus.validation)
    assert sorted(found) == sorted(corpus.processor.encode(texts))
    assert corpus.documents == len(texts)
    assert corpus.tokens == sum(len(ids) + 2 for ids in found)
    assert corpus.rejected == {"empty text": 2}


def test_only_the_last_block_is_padded(corpus):
    for blocks in (corpus.train, corpus.validation):
        stream = stream_of(blocks)
        assert len(stream) - (stream != PAD).sum() < 16
        assert (stream[: (stream != PAD).sum()] != PAD).all()


def test_about_a_tenth_is_held_out_and_equal_documents_stay_together(tmp_path, texts):
    file = tmp_path / "twice.txt"
    file.write_text("\n".join(texts * 2), encoding="utf-8")
    corpus = prepare_corpus(config(file), tmp_path / "cache")
    train, validation = documents_in(corpus.train), documents_in(corpus.validation)
    assert not {tuple(d) for d in train} & {tuple(d) for d in validation}
    assert 0.04 < len(validation) / (2 * len(texts)) < 0.2


def test_asking_twice_opens_the_same_folder(corpus, source, tmp_path):
    before = {p.name: p.stat().st_mtime_ns for p in corpus.path.iterdir()}
    again = prepare_corpus(config(source), tmp_path / "cache")
    assert again.path == corpus.path
    assert {p.name: p.stat().st_mtime_ns for p in again.path.iterdir()} == before
    assert [p for p in (tmp_path / "cache").iterdir() if p.name.startswith("corpus")] == [
        again.path
    ]


def test_the_same_corpus_has_the_same_bytes(corpus, source, tmp_path):
    other = prepare_corpus(config(source), tmp_path / "elsewhere")
    assert other.path.name == corpus.path.name
    names = sorted(path.name for path in corpus.path.iterdir())
    assert "train-00000.arrow" in names
    for name in names:
        assert (other.path / name).read_bytes() == (corpus.path / name).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"block_size": 32},
        {"max_documents": 50},
        {"tokenizer": TokenizerConfig(vocab_size=300, lowercase=False)},
    ],
)
def test_another_config_is_another_corpus(corpus, source, tmp_path, change):
    assert prepare_corpus(config(source, **change), tmp_path / "cache").path != corpus.path


def test_other_text_is_another_corpus(corpus, source, tmp_path):
    source.write_text(source.read_text() + "one more sentence\n")
    assert prepare_corpus(config(source), tmp_path / "cache").path != corpus.path


def test_a_damaged_corpus_is_made_again(corpus, source, tmp_path):
    expected = (corpus.path / "train-00000.arrow").read_bytes()
    (corpus.path / "train-00000.arrow").write_bytes(expected[:-9])
    with pytest.raises(IntegrityError, match=r"train-00000\.arrow"):
        open_corpus(corpus.path)
    again = prepare_corpus(config(source), tmp_path / "cache")
    assert (again.path / "train-00000.arrow").read_bytes() == expected


def test_a_failure_leaves_no_corpus_and_the_next_try_goes_on(source, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("disk")

    with monkeypatch.context() as broken:
        broken.setattr(BlockWriter, "add", fail)
        with pytest.raises(RuntimeError, match="disk"):
            prepare_corpus(config(source), tmp_path / "cache")
    (folder,) = (tmp_path / "cache").glob("corpus-*")
    assert {path.name for path in folder.iterdir()} >= {"plan.json", "tokenizer.json"}
    assert not [path for path in folder.iterdir() if ".tmp-" in path.name or ".arrow" in path.name]
    with pytest.raises(IntegrityError, match="never committed"):
        open_corpus(folder)
    assert prepare_corpus(config(source), tmp_path / "cache").path == folder


def test_manifest_says_what_was_done(corpus):
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    assert manifest["block_size"] == 16
    assert manifest["vocab_size"] == corpus.processor.vocab_size
    assert manifest["tokenizer_sha256"] == manifest["files"]["tokenizer.json"]["sha256"]
    assert manifest["documents"]["train"] == len(documents_in(corpus.train))
    assert manifest["config"]["data"]["source"].startswith("files:")


def test_unigram_entropy_is_that_of_the_counts(corpus):
    train = np.concatenate([d for d in documents_in(corpus.train)])
    asked = np.concatenate([d for d in documents_in(corpus.validation)])
    size = corpus.processor.vocab_size - 5
    expected = -np.mean([np.log(((train == t).sum() + 1) / (len(train) + size)) for t in asked])
    assert corpus.unigram_entropy() == pytest.approx(expected, rel=1e-9)


def test_a_given_tokenizer_is_used(source, tmp_path, processor):
    folder = tmp_path / "tokenizer"
    processor.save(folder)
    tokenizer = TokenizerConfig(path=str(folder))
    corpus = prepare_corpus(config(source, tokenizer=tokenizer), tmp_path / "cache")
    assert (corpus.path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert TextProcessor.load(corpus.path).max_length == 16


def test_two_documents_are_enough_and_one_is_not(tmp_path):
    file = tmp_path / "few.txt"
    file.write_text("first document\nsecond document\n")
    corpus = prepare_corpus(config(file), tmp_path / "cache")
    assert corpus.manifest.documents == {"train": 1, "validation": 1}
    file.write_text("the same\nthe same\n\n")
    with pytest.raises(InputError, match=r"two different documents.*1 × empty text"):
        prepare_corpus(config(file), tmp_path / "cache")


def test_missing_tokenizer_folder_is_named(source, tmp_path):
    tokenizer = TokenizerConfig(path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere holds no tokenizer"):
        prepare_corpus(config(source, tokenizer=tokenizer), tmp_path / "cache")


def test_blocks_are_read_through_a_map_over_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.data.corpora.blocks.TOKENS_PER_BATCH", 3 * 8)
    documents = [list(range(5, 5 + n)) for n in (10, 3, 40, 1, 7, 25)]
    with BlockWriter(tmp_path / "x.arrow", 8, 100, OURS) as writer:
        for ids in documents:
            writer.add(ids)
    blocks = TokenBlocks.open(tmp_path / "x.arrow")
    assert documents_in(blocks) == documents
    order = np.asarray([len(blocks) - 1, 0, 4, 4])
    assert (blocks.rows(order) == stream_of(blocks).reshape(-1, 8)[order]).all()
    assert (blocks.counts(100) == np.bincount(stream_of(blocks), minlength=100)).all()


def test_large_vocabularies_do_not_overflow(tmp_path):
    with BlockWriter(tmp_path / "x.arrow", 8, 70_000, OURS) as writer:
        writer.add([69_999] * 3)
    assert documents_in(TokenBlocks.open(tmp_path / "x.arrow")) == [[69_999] * 3]


def test_damaged_blocks_are_an_integrity_error(tmp_path):
    (tmp_path / "x.arrow").write_bytes(b"no arrow")
    with pytest.raises(IntegrityError, match=r"x\.arrow"):
        TokenBlocks.open(tmp_path / "x.arrow")
