"""Schedules against transformers' own and against hand-computed values."""

import pytest
import torch
import transformers

from orchestrator.training.config import ScheduleConfig, TrainConfig
from orchestrator.training.schedules import factor, learning_rate

STEPS, WARMUP = 40, 8
OPTIMIZER = torch.optim.SGD([torch.zeros(1)], lr=1.0)

ORACLES = {
    "constant": transformers.get_constant_schedule_with_warmup(OPTIMIZER, WARMUP),
    "linear": transformers.get_linear_schedule_with_warmup(OPTIMIZER, WARMUP, STEPS),
    "cosine": transformers.get_cosine_schedule_with_warmup(OPTIMIZER, WARMUP, STEPS),
    "inverse_sqrt": transformers.get_inverse_sqrt_schedule(OPTIMIZER, WARMUP),
    "polynomial": transformers.get_polynomial_decay_schedule_with_warmup(
        OPTIMIZER, WARMUP, STEPS, lr_end=0.1, power=2.0
    ),
    "wsd": transformers.get_wsd_schedule(
        OPTIMIZER, WARMUP, 10, num_training_steps=STEPS, min_lr_ratio=0.2
    ),
}
SETTINGS = {
    "polynomial": {"power": 2.0, "final_ratio": 0.1},
    "wsd": {"decay_steps": 10, "final_ratio": 0.2},
}


@pytest.mark.parametrize("kind", ORACLES)
def test_matches_transformers_after_warm_up(kind):
    config = ScheduleConfig(type=kind, warmup_steps=WARMUP, **SETTINGS.get(kind, {}))
    expected = ORACLES[kind].lr_lambdas[0]
    for step in range(WARMUP, STEPS):
        assert factor(config, step, STEPS) == pytest.approx(expected(step), abs=1e-12)


def test_warm_up_counts_from_one_and_reaches_the_peak():
    config = ScheduleConfig(type="linear", warmup_steps=4)
    assert [factor(config, step, 10) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_no_step_of_a_linear_schedule_is_spent_at_zero():
    config = ScheduleConfig(type="linear", warmup_steps=3)
    assert min(factor(config, step, 12) for step in range(12)) == pytest.approx(1 / 9)


def test_learning_rate_is_the_peak_times_the_factor():
    config = TrainConfig(max_steps=4, schedule={"type": "linear"}, optimizer={"learning_rate": 0.2})
    expected = [0.2, 0.15, 0.1, 0.05]
    assert [learning_rate(config, s) for s in range(4)] == pytest.approx(expected)


def test_wsd_decays_over_the_last_tenth_by_default():
    config = ScheduleConfig(type="wsd")
    assert [factor(config, step, 100) for step in (0, 50, 90)] == [1.0, 1.0, 1.0]
    assert factor(config, 95, 100) == pytest.approx(0.5)
