import numpy as np
import pytest
import torch

from orchestrator.data import steps
from orchestrator.data.corpora.corpus import prepare_corpus
from orchestrator.data.samples.block_samples import LmSamples, MlmSamples
from orchestrator.data.samples.sentence_pairs import PairSamples
from orchestrator.data.spec import CorpusConfig
from orchestrator.data.steps import CYCLE, Mixed, Shuffled, StepSource, quotas
from orchestrator.errors import InputError

SIZES, WEIGHTS = (50, 7, 300), (3.0, 1.0, 4.0)
FIRST = np.cumsum([0, *SIZES])


def owners(samples):
    return np.searchsorted(FIRST, samples, side="right") - 1


def test_shares_hold_exactly_in_every_cycle():
    stream = Mixed(SIZES, WEIGHTS, seed=5)
    for cycle in (0, 1, 7):
        samples, _ = stream.at(np.arange(cycle * CYCLE, (cycle + 1) * CYCLE))
        assert np.bincount(owners(samples)).tolist() == [CYCLE * 3 // 8, CYCLE // 8, CYCLE // 2]


def test_shares_hold_about_in_every_stretch():
    samples, _ = Mixed(SIZES, WEIGHTS, seed=5).at(np.arange(512))
    assert np.bincount(owners(samples)) / 512 == pytest.approx([3 / 8, 1 / 8, 1 / 2], abs=0.07)


def test_each_source_goes_through_its_own_epochs():
    samples, epochs = Mixed(SIZES, WEIGHTS, seed=5).at(np.arange(3 * CYCLE))
    for number, size in enumerate(SIZES):
        mine = owners(samples) == number
        own, ages = samples[mine] - FIRST[number], epochs[mine]
        assert (ages == np.arange(len(own)) // size).all()
        for epoch in range(len(own) // size):
            assert sorted(own[ages == epoch]) == list(range(size))


def test_a_place_depends_on_seed_and_place_alone():
    whole = Mixed(SIZES, WEIGHTS, seed=5).at(np.arange(2 * CYCLE + 10))
    backwards = Mixed(SIZES, WEIGHTS, seed=5)
    for start in (2 * CYCLE, 4090, 100, 0):
        found = backwards.at(np.arange(start, start + 10))
        assert (found[0] == whole[0][start : start + 10]).all()
        assert (found[1] == whole[1][start : start + 10]).all()
    other = Mixed(SIZES, WEIGHTS, seed=6).at(np.arange(100))[0]
    assert not (other == whole[0][:100]).all()


def test_sources_of_one_size_are_not_in_one_order():
    samples, _ = Mixed((40, 40), (1, 1), seed=5).at(np.arange(80))
    first, second = samples[samples < 40], samples[samples >= 40] - 40
    size = min(len(first), len(second))
    assert not (first[:size] == second[:size]).all()


def test_rare_sources_are_not_forgotten():
    found = quotas([1e6, 1e-6, 1.0])
    assert found.sum() == CYCLE
    assert found.min() == 1
    assert quotas([1, 1, 1]).tolist() == [1366, 1365, 1365]
    with pytest.raises(InputError, match="more than a mixture"):
        quotas([1.0] * (CYCLE + 1))


def test_a_source_without_samples_is_refused():
    with pytest.raises(InputError, match="50, 0 training samples"):
        Mixed((50, 0), (1, 1), 3)


@pytest.mark.parametrize("listed", [29, 30])
def test_one_source_alone_is_a_permutation_an_epoch(monkeypatch, listed):
    monkeypatch.setattr(steps, "LISTED", listed)
    samples, epochs = Shuffled(30, 2).at(np.arange(90))
    for epoch in range(3):
        assert sorted(samples[epochs == epoch]) == list(range(30))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("mixture")
    (path / "a.txt").write_text("\n".join(texts[:150]))
    (path / "b.txt").write_text("\n".join(texts[150:]))
    config = CorpusConfig.model_validate(
        {
            "mixture": [
                {"data": {"source": f"files:{path}/a.txt"}, "weight": 1},
                {"data": {"source": f"files:{path}/b.txt"}, "weight": 3},
            ],
            "tokenizer": {"vocab_size": 300},
            "block_size": 16,
        }
    )
    return prepare_corpus(config, path / "cache"), config


def test_the_sources_of_a_corpus_begin_a_block_each(mixed, texts):
    corpus, _ = mixed
    assert corpus.documents == len(texts)
    assert len(corpus.train.parts) == 2
    assert sum(corpus.train.parts) == len(corpus.train)
    border = corpus.train.parts[0]
    batch = LmSamples(corpus.train).collate(np.arange(border - 1, border + 1), 0)
    assert batch["input_ids"][1, 0] == 2  # a document begins
    pairs = PairSamples(corpus.train, corpus.processor, "nsp")
    assert len(pairs.parts) == 2
    assert sum(pairs.parts) == len(pairs)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(mixed, world):
    corpus, config = mixed
    samples = MlmSamples(corpus.train, corpus.processor, seed=1)
    source = StepSource(samples, 8, 2, 3, config.weights)
    alone = StepSource(samples, 8, 8, 3, config.weights)
    for step in (0, 5, 700):
        parts = [
            batch["input_ids"]
            for rank in range(world)
            for batch in source.window(step, rank, world)
        ]
        assert torch.equal(torch.cat(parts), alone.window(step)[0]["input_ids"])
    taken = np.concatenate([alone.indices(step)[0] for step in range(64)])
    assert (taken >= corpus.train.parts[0]).mean() == pytest.approx(0.75, abs=0.06)
