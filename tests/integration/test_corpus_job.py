"""The corpus job through Ray Data: the bytes of one process, progress, going on, one JSON line."""

import json
from pathlib import Path

import pytest

from orchestrator.config import load_config
from orchestrator.data.corpora.corpus import open_corpus, prepare_corpus
from orchestrator.errors import InputError
from orchestrator.pretraining.config import CorpusJobConfig, PretrainConfig
from orchestrator.pretraining.corpus_runner import run
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.runner import check as plan

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "corpus_pydoc.yaml"
BERT = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
SMALL = ["data.max_documents=300", "data.tokenizer.vocab_size=600", "data.shard_bytes=20000"]


def job(path, *overrides):
    return load_config(CorpusJobConfig, PRESET, [*SMALL, f"run.dir={path}", *overrides])


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def made(local_ray, tmp_path_factory):
    """The preset by two workers, small: config and figures."""
    config = job(tmp_path_factory.mktemp("two"))
    return config, run(config).metrics


def test_one_worker_two_workers_and_no_ray_give_the_same_bytes(made, tmp_path):
    _, two = made
    one = run(job(tmp_path / "one", "cluster.workers=1")).metrics
    alone = prepare_corpus(job(tmp_path).data, tmp_path / "alone")
    assert two["shards"] == two["shards_made"] == one["shards_made"] == alone.shards > 4
    assert bytes_of(two["corpus"]) == bytes_of(one["corpus"]) == bytes_of(alone.path)


def test_the_job_counts_what_it_did_and_does_it_once(made, capsys):
    config, figures = made
    assert figures["documents"] == 300
    assert figures["tokens"] == open_corpus(Path(figures["corpus"])).tokens
    result = run(config)
    assert result.metrics == figures | {"shards_made": 0}
    assert json.loads(result.model_dump_json())["metrics"]["rejected"] == figures["rejected"]


def test_shards_that_are_there_are_kept_and_the_rest_is_made(made):
    config, figures = made
    folder = Path(figures["corpus"])
    before = bytes_of(folder)
    for name in ("manifest.json", "shard-00001.json", "train-00003.arrow"):
        (folder / name).unlink()
    assert run(config).metrics == figures | {"shards_made": 2}
    assert bytes_of(folder) == before


def test_pre_training_finds_the_corpus_or_is_told_where_it_is(made, tmp_path):
    config, figures = made
    same = [f"data={json.dumps(config.data.model_dump(mode='json'))}"]
    cache = Path(config.run.dir) / "corpora"
    assert (
        str(prepare_inputs(load_config(PretrainConfig, BERT, same), cache).corpus.path)
        == (figures["corpus"])
    )
    told = tmp_path / "told.yaml"
    text = BERT.read_text()
    start, end = text.index("data:\n"), text.index("model:\n")
    told.write_text(f"{text[:start]}data: {{prepared: '{figures['corpus']}'}}\n{text[end:]}")
    config = load_config(PretrainConfig, told)
    assert figures["corpus"] in plan(config)
    found = prepare_inputs(config, tmp_path / "unused").corpus
    assert str(found.path) == figures["corpus"]


def test_an_error_in_a_worker_is_one_message(local_ray, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"fine\nfine too\nfa\xe7ade\n")
    config = job(tmp_path, f"data.data.source=files:{tmp_path}/x.txt", "data.max_documents=null")
    with pytest.raises(InputError, match=r"x\.txt, line 3, byte 16: 0xe7 is not UTF-8"):
        run(config)
