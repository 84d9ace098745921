"""Pre-training settings: what does not fit together is said all at once."""

import pytest

from orchestrator.config import load_config
from orchestrator.errors import ConfigError
from orchestrator.pretraining.config import PretrainConfig

GOOD = """
run: {name: a-run}
cluster: {workers: 2}
model:
  hidden_size: 16
  max_position_embeddings: 64
  encoder: {type: transformer, num_layers: 1, num_heads: 2}
  target: mlm
train: {max_steps: 10, global_batch_size: 64, micro_batch_size: 8}
package: {name: nano}
"""


@pytest.fixture
def problems(tmp_path):
    """Load GOOD with overrides and return what is wrong, by path."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)

    def load(*overrides):
        try:
            load_config(PretrainConfig, path, overrides)
        except ConfigError as error:
            return {problem.path: problem.message for problem in error.problems}
        return {}

    return load


def test_a_good_config_has_no_problem(problems):
    assert problems() == {}


def test_a_micro_batch_that_does_not_divide(problems):
    assert problems("train.micro_batch_size=7") == {
        "train.micro_batch_size": "7 does not divide train.global_batch_size (64) / workers (2). "
        "Use 1, 2, 4, 8, 16 or 32."
    }


def test_a_batch_that_cannot_be_shared(problems):
    found = problems("train.global_batch_size=63", "train.micro_batch_size=1")
    assert "63 does not divide over 2 workers" in found["train.global_batch_size"]


def test_blocks_longer_than_the_model(problems):
    found = problems("data.block_size=128")
    assert "128 exceeds model.max_position_embeddings (64)" in found["data.block_size"]


def test_a_vocabulary_smaller_than_the_tokenizers(problems):
    assert "100 is smaller" in problems("model.vocab_size=100")["model.vocab_size"]


CAUSAL = "model.encoder.mask=causal"


@pytest.mark.parametrize(
    ("overrides", "fits"),
    [
        (["model.target=mlm"], True),
        (["model.target=mlm", CAUSAL], False),
        (["model.target=lm"], False),
        (["model.target=lm", CAUSAL], True),
        (["model.target=lm", "model.encoder={type: lstm}"], True),
        (["model.target=lm", "model.encoder={type: lstm, bidirectional: true}"], False),
        (["model.target=lm", "model.encoder={type: gatedcnn}"], True),
        (["model.target=mlm", "model.encoder={type: gatedcnn}"], False),
        (["model.target=mlm", "model.encoder={type: gatedcnn, mask: bidirectional}"], True),
        (["model.target=bilm", "model.encoder=bilstm"], True),
        (["model.target=mlm", "model.encoder=bilstm"], True),
        (["model.target=lm", "model.encoder=bigru"], False),
        (["model.target=bilm"], False),
    ],
)
def test_the_encoder_must_read_what_the_target_needs(problems, overrides, fits):
    found = problems(*overrides)
    assert (found == {}) is fits
    if not fits:
        assert list(found) == ["model.target.0.type"]
        assert "needs an encoder" in found["model.target.0.type"]


@pytest.mark.parametrize(
    ("target", "path"),
    [("{type: cls, num_labels: 3}", "model.target.0.type"), ("[mlm, sp]", "model.target")],
)
def test_targets_that_a_corpus_has_no_labels_for(problems, target, path):
    assert path in problems(f"model.target={target}")


def test_one_worker_is_not_two(problems):
    assert "'single' runs on one worker" in problems("engine.type=single")["engine.type"]


def test_everything_is_said_at_once(problems):
    found = problems(
        "train.micro_batch_size=7", "data.block_size=128", CAUSAL, "train.schedule.warmup_steps=99"
    )
    assert set(found) >= {
        "train.micro_batch_size",
        "data.block_size",
        "model.target.0.type",
        "train.schedule.warmup_steps",
    }


def test_elastic_workers_are_bounds(make_config):
    config = make_config("cluster.workers={min: 1, max: 2}")
    assert (config.cluster.workers, config.cluster.max_workers) == (1, 2)
    assert list(config.cluster.worker_counts) == [1, 2]
    assert list(make_config("cluster.workers=2").cluster.worker_counts) == [2]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cluster.workers={min: 1, max: 3}"], "does not divide over 3 workers"),
        (["cluster.workers={min: 2, max: 1}"], "1 is less than workers"),
        (["cluster.workers={min: 1, max: 2}", "engine.type=single"], "engine.type"),
        (["cluster.workers={min: 1, most: 2}"], "cluster.workers"),
    ],
)
def test_bounds_that_cannot_work_are_problems(make_config, overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        make_config(*overrides)
