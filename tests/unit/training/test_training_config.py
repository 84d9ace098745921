"""Cross-field rules of the training section."""

import pytest
from pydantic import ValidationError

from orchestrator.training.config import (
    EngineConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    batch_problems,
)


def messages(problems):
    return [str(problem) for problem in problems]


def test_batch_problem_lists_what_divides():
    (found,) = messages(batch_problems(64, 7, 2))
    assert found == (
        "micro_batch_size: 7 does not divide global_batch_size (64) / workers (2). "
        "Use 1, 2, 4, 8, 16 or 32."
    )


def test_global_batch_must_divide_over_workers():
    (found,) = messages(batch_problems(10, 5, 3))
    assert "10 does not divide over 3 workers. Use a multiple of 3, for example 12" in found


@pytest.mark.parametrize(("size", "micro", "workers"), [(64, 16, 2), (1, 1, 1), (12, 3, 4)])
def test_batches_that_divide(size, micro, workers):
    assert messages(batch_problems(size, micro, workers)) == []


def test_warm_up_must_be_shorter_than_the_run():
    config = TrainConfig(max_steps=5, schedule={"warmup_steps": 5})
    assert "schedule.warmup_steps" in messages(config.problems())[0]


@pytest.mark.parametrize(
    "fields", [{"power": 2.0}, {"decay_steps": 4}, {"type": "constant", "final_ratio": 0.1}]
)
def test_fields_without_effect_are_problems(fields):
    assert len(messages(ScheduleConfig(**fields).problems())) == 1


def test_betas_below_one():
    assert messages(OptimizerConfig(betas=(0.9, 1.0)).problems())[0].startswith("betas.1")


def test_single_engine_has_one_worker():
    assert len(messages(EngineConfig(type="single").problems_with(2))) == 1
    assert messages(EngineConfig(type="ddp").problems_with(2)) == []


def test_unknown_field():
    with pytest.raises(ValidationError):
        TrainConfig(learning_rate=1.0)
