"""The plan: memory by formula, and the text of --check."""

import pytest
import torch

from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.pretraining.plan import make_plan, with_vocabulary, worker_memory
from orchestrator.pretraining.runner import check
from orchestrator.training.config import EngineConfig

N = 1_000_000


@pytest.mark.parametrize(
    ("engine", "workers", "bytes_per_parameter"),
    [
        ({"type": "single"}, 1, 4 + 4 + 8),
        ({"type": "ddp"}, 2, 4 + 4 + 8 + 4),
        ({"type": "zero", "zero_stage": 1}, 4, 4 + 4 + (4 + 8) / 4),
        ({"type": "zero", "zero_stage": 2}, 4, 4 + (4 + 4 + 8) / 4),
        ({"type": "zero", "zero_stage": 3}, 4, (4 + 4 + 8) / 4),
        ({"type": "zero", "zero_stage": 3, "precision": "bf16"}, 4, (2 + 4 + 4 + 8) / 4),
    ],
)
def test_memory_follows_the_formula(engine, workers, bytes_per_parameter):
    memory = worker_memory(N, EngineConfig(**engine), workers, activations=0)
    assert memory.total - memory.buffers * (engine["type"] == "zero") == N * bytes_per_parameter


def test_every_stage_needs_less_than_the_one_before():
    stages = [EngineConfig(type="zero", zero_stage=stage) for stage in (1, 2, 3)]
    sizes = [worker_memory(N, stage, 8, 0).total for stage in stages]
    assert sizes[0] > sizes[1] > sizes[2]


def test_parameters_are_those_of_the_built_model(make_config):
    plan = make_plan(make_config())
    built = sum(p.numel() for p in build_model(plan.model).parameters())
    assert plan.parameters.total == built
    assert plan.tokens == 6 * 8 * 16


def test_check_says_what_will_happen_and_allocates_nothing(make_config, tmp_path):
    text = check(make_config("cluster.workers=2", "engine.type=zero", "engine.zero_stage=3"))
    assert "8 = 2 workers × 1 micro-batches × 4 samples" in text
    assert "ZeRO-3, fp32, 2 × 1 CPU" in text
    assert "6 steps, 768 tokens" in text
    assert "every 2 steps and at the end" in text
    assert not (tmp_path / "runs").exists()


def test_check_finds_a_corpus_that_is_not_there(make_config):
    with pytest.raises(InputError, match="nowhere"):
        check(make_config("data.data.source=files:/nowhere"))


def test_a_vocabulary_may_be_larger_than_the_tokenizers_but_not_smaller(make_config):
    config = make_config("model.vocab_size=512")
    assert with_vocabulary(config, 300).vocab_size == 512
    with pytest.raises(ConfigError, match="512 is smaller than the tokenizer's 600"):
        with_vocabulary(config, 600)
    assert with_vocabulary(make_config(), 300).vocab_size == 300


def test_the_plan_is_made_on_the_meta_device(make_config, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("values were drawn")

    monkeypatch.setattr(torch.nn.init, "normal_", refuse)
    assert make_plan(make_config()).parameters.total > 0
