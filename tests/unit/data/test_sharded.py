"""A corpus in many shards: the same bytes in any order of the work, and no shard built twice."""

import json
import os
from collections import Counter

import numpy as np
import pytest

from orchestrator.config import load_config, require_no_problems
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.corpora.corpus import find_corpus, open_corpus, prepare_corpus
from orchestrator.data.samples.passages import Passages
from orchestrator.data.sharded.shard import ShardedBlocks
from orchestrator.data.spec import CorpusConfig
from orchestrator.errors import ConfigError, InputError, IntegrityError
from orchestrator.pretraining.config import CorpusJobConfig
from orchestrator.pretraining.corpus_runner import check
from orchestrator.pretraining.inputs import open_data
from orchestrator.storage.operations import fault_hook

from .test_corpus import documents_in, stream_of


@pytest.fixture(scope="module")
def source(tmp_path_factory, texts):
    """A folder with a large file in each of two formats, and many small files."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.txt").write_text("\n".join([*texts[:120], "", " "]))
    rows = [json.dumps({"text": text}) for text in [*texts[120:], "...", ""]]
    (folder / "b.jsonl").write_text("\n".join(["{no", *rows]))
    for number in range(40):
        (folder / f"c{number:02}.txt").write_text(f"small file number {number}. {texts[number]}")
    return folder


def config(source, **changes):
    settings = {
        "data": {"source": f"files:{source}"},
        "tokenizer": {"vocab_size": 300},
        "block_size": 16,
        "shard_bytes": 2048,
    }
    return CorpusConfig.model_validate(settings | changes)


@pytest.fixture(scope="module")
def corpus(source, tmp_path_factory):
    return prepare_corpus(config(source), tmp_path_factory.mktemp("cache"))


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def backwards(task, rows):
    """The last input first, and every value through JSON, as through another process."""
    for row in reversed(rows):
        result = task(type(row).model_validate_json(row.model_dump_json()))
        yield type(result).model_validate_json(result.model_dump_json())


def test_any_order_gives_the_same_bytes(corpus, source, tmp_path):
    assert corpus.shards > 8
    again = prepare_corpus(config(source), tmp_path, mapper=backwards)
    assert again.path.name == corpus.path.name
    assert bytes_of(again.path) == bytes_of(corpus.path)


def test_shards_hold_the_documents_of_one(corpus, source, tmp_path):
    whole = prepare_corpus(config(source, shard_bytes=1 << 20), tmp_path)
    assert whole.shards == 1
    assert whole.path.name != corpus.path.name
    assert (whole.path / "tokenizer.json").read_bytes() == (
        corpus.path / "tokenizer.json"
    ).read_bytes()
    for split in ("train", "validation"):
        one, many = getattr(whole, split), getattr(corpus, split)
        assert documents_in(many) == documents_in(one)
    assert (corpus.documents, corpus.tokens) == (whole.documents, whole.tokens)
    assert corpus.rejected == whole.rejected
    assert corpus.rejected == {"empty text": 3, "not a JSON object": 1}
    assert corpus.unigram_entropy() == pytest.approx(whole.unigram_entropy())


def test_blocks_and_borders_of_shards_are_one_stream(corpus, monkeypatch):
    blocks = corpus.train
    parts = [
        TokenBlocks.open(corpus.path / f"train-{number:05}.arrow")
        for number in range(corpus.shards)
    ]
    stream = np.concatenate([stream_of(part) for part in parts])
    assert (stream_of(blocks) == stream).all()
    assert blocks.parts == (len(blocks),) == (len(stream) // 16,)
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(blocks), 40)
    assert (blocks.rows(places) == stream.reshape(-1, 16)[places]).all()


@pytest.mark.parametrize("tables", [2, 256])
def test_passages_of_shards_are_those_of_each(corpus, monkeypatch, tables):
    monkeypatch.setattr("orchestrator.data.corpora.border_table.OPEN_TABLES", tables)
    monkeypatch.setattr("orchestrator.data.samples.passages.ROWS_AT_ONCE", 50)
    opened = open_corpus(corpus.path).train
    before = len(os.listdir("/proc/self/fd"))
    passages = Passages(opened, 12)
    assert len(os.listdir("/proc/self/fd")) <= before + tables
    expected, documents = [], 0
    for number in range(corpus.shards):
        part = Passages(TokenBlocks.open(corpus.path / f"train-{number:05}.arrow"), 12)
        expected += [
            (documents + part.document(i), part.tokens(i).tolist()) for i in range(len(part))
        ]
        documents += part.documents
    found = [(passages.document(i), passages.tokens(i).tolist()) for i in range(len(passages))]
    assert found == expected
    assert passages.documents == documents == corpus.manifest.documents["train"]
    assert passages.parts == (len(passages),)


def test_few_shards_are_open_at_once(corpus, monkeypatch):
    monkeypatch.setattr("orchestrator.data.sharded.shard.OPEN_SHARDS", 2)
    opened = open_corpus(corpus.path).train
    assert isinstance(opened, ShardedBlocks)
    before = len(os.listdir("/proc/self/fd"))
    assert (stream_of(opened) == stream_of(corpus.train)).all()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


class Killed(BaseException):
    """The process ends here."""


def build(source, cache, made, die_at=None):
    """Build a corpus and count the shards that are written; die at one storage operation."""
    operations = 0

    def hook(operation, path):
        nonlocal operations
        operations += 1
        if operation == "replace" and path.endswith(".json") and "shard-" in path:
            made[path.rpartition("/")[2]] += 1
        if operations == die_at:
            raise Killed

    with fault_hook(hook):
        prepare_corpus(config(source), cache)
    return operations


def test_a_killed_build_resumes_and_builds_no_shard_twice(corpus, source, tmp_path):
    expected, shards = bytes_of(corpus.path), corpus.shards
    total = build(source, tmp_path / "whole", Counter())
    rng = np.random.default_rng(5)
    for number, die_at in enumerate([1, total - 1, *rng.integers(2, total - 1, 3).tolist()]):
        made, cache = Counter(), tmp_path / str(number)
        with pytest.raises(Killed):
            build(source, cache, made, die_at)
        folder = cache / corpus.path.name
        # The hook counts a sidecar just before it gets its name.
        written = Counter({n: 1 for n in made if (folder / n).exists()})
        (folder / "shard-00001.tmp-abc").mkdir(parents=True)  # a leftover of a killed process
        assert find_corpus(config(source), cache) is None
        build(source, cache, written)
        assert bytes_of(folder) == expected
        assert written == Counter({f"shard-{n:05}.json": 1 for n in range(shards)})


def test_only_a_damaged_shard_is_built_again(corpus, source, tmp_path):
    expected = bytes_of(corpus.path)
    cache = tmp_path / "cache"
    folder = prepare_corpus(config(source), cache).path
    for name in ("train-00003.arrow", "validation-00005.sentences.arrow"):
        damaged = bytearray(expected[name])
        damaged[len(damaged) // 2] ^= 1
        (folder / name).write_bytes(damaged)
    (folder / "stray.bin").write_bytes(b"?")
    (folder / "plan.json").write_bytes(b"{")
    with pytest.raises(IntegrityError):
        open_corpus(folder)
    made = Counter()
    build(source, cache, made)
    assert bytes_of(folder) == expected
    assert sorted(made) == ["shard-00003.json", "shard-00005.json"]


def test_workers_check_sizes_and_sidecars_and_the_driver_every_byte(corpus, source, tmp_path):
    folder = prepare_corpus(config(source), tmp_path).path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.data.sharded.build.SMALL_BYTES", 0)
        path = folder / "train-00002.arrow"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        open_data(folder)
        with pytest.raises(IntegrityError, match=r"train-00002\.arrow"):
            open_corpus(folder)
        path.write_bytes(content[:-1])
        with pytest.raises(IntegrityError, match=r"train-00002\.arrow"):
            open_data(folder)


@pytest.mark.parametrize("cap", [2, 30, 119, 120, 121, 160])
def test_a_cap_ends_in_a_piece_as_in_the_whole(source, tmp_path, cap):
    many = prepare_corpus(config(source, max_documents=cap), tmp_path)
    one = prepare_corpus(config(source, max_documents=cap, shard_bytes=1 << 20), tmp_path)
    assert many.documents == one.documents == cap
    for split in ("train", "validation"):
        assert documents_in(getattr(many, split)) == documents_in(getattr(one, split))
    assert many.rejected == one.rejected


def test_a_source_that_changes_while_it_is_read_is_refused(source, tmp_path, texts):
    path = tmp_path / "x.txt"
    path.write_text("\n".join(texts))

    def change(task, rows):
        yield from map(task, rows)
        path.write_text("\n".join(texts).replace("\n", " ", 50))

    with pytest.raises(InputError, match="was changed while the corpus was built"):
        prepare_corpus(config(path), tmp_path / "cache", mapper=change)


def job(path, **data):
    text = json.dumps({"run": {"name": "job"}, "data": data})
    path.write_text(text)
    return load_config(CorpusJobConfig, path)


def test_a_plan_says_how_much_there_is(source, tmp_path, texts):
    found = check(job(tmp_path / "job.yaml", **config(source).model_dump(mode="json")))
    lines = dict(line.split(None, 1) for line in found.splitlines())
    number = int(lines["documents"].removeprefix("about ").replace(",", ""))
    assert number == pytest.approx(240, rel=0.5)
    assert int(lines["shards"].split()[1].rstrip(",")) == pytest.approx(24, rel=0.5)
    with pytest.raises(InputError, match="does not exist"):
        check(job(tmp_path / "job.yaml", data={"source": "files:/nowhere/at/all"}))
    for source_, word in (
        ("builtin:digits", "not a corpus"),
        ("builtin:pydoc/kind", "not a corpus"),
    ):
        with pytest.raises(ConfigError, match=word):
            job(tmp_path / "job.yaml", data={"source": source_})


def test_a_prepared_corpus_brings_its_settings(corpus, source, tmp_path):
    named = CorpusConfig.model_validate({"prepared": str(corpus.path), "packing": "documents"})
    require_no_problems(named, "test")
    assert (named.block_size, named.packing) == (16, "documents")
    assert named.tokenizer == config(source).tokenizer
    assert named.data.source == f"files:{source}"
    again = CorpusConfig.model_validate(named.model_dump(mode="json"))
    assert again == named
    assert prepare_corpus(named, tmp_path / "unused").path == corpus.path
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_size": 32}, "block_size: 32 contradicts the prepared corpus, which has 16"),
        ({"tokenizer": {"vocab_size": 400}}, "tokenizer.vocab_size: 400 contradicts"),
        ({"data": {"source": "builtin:pydoc"}}, "data.source: 'builtin:pydoc' contradicts"),
        ({"prepared": "/nowhere/at/all"}, "prepared: .*not there.*orchestrator corpus"),
    ],
)
def test_what_contradicts_a_prepared_corpus_is_named(corpus, changes, words):
    settings = {"prepared": str(corpus.path)} | changes
    with pytest.raises(ConfigError, match=words):
        require_no_problems(CorpusConfig.model_validate(settings), "test")
