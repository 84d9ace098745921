"""Schedules against transformers' own and hand-computed values; the usual peak of fine-tuning."""

import math

import pytest
import torch
import transformers

from orchestrator.training.config import ScheduleConfig, TrainConfig
from orchestrator.training.learning_rates import factor, learning_rate, rate_for, usual_rate
from orchestrator.zoo import Zoo
from tests.support.packages import commit_tiny, write_tiny

STEPS, WARMUP = 40, 8
OPTIMIZER = torch.optim.SGD([torch.zeros(1)], lr=1.0)

ORACLES = {
    "constant": transformers.get_constant_schedule_with_warmup(OPTIMIZER, WARMUP),
    "linear": transformers.get_linear_schedule_with_warmup(OPTIMIZER, WARMUP, STEPS),
    "cosine": transformers.get_cosine_schedule_with_warmup(OPTIMIZER, WARMUP, STEPS),
    "cosine_restarts": transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
        OPTIMIZER, WARMUP, STEPS, num_cycles=3
    ),
    "inverse_sqrt": transformers.get_inverse_sqrt_schedule(OPTIMIZER, WARMUP),
    "polynomial": transformers.get_polynomial_decay_schedule_with_warmup(
        OPTIMIZER, WARMUP, STEPS, lr_end=0.1, power=2.0
    ),
    "wsd": transformers.get_wsd_schedule(
        OPTIMIZER, WARMUP, 10, num_training_steps=STEPS, min_lr_ratio=0.2
    ),
}
SETTINGS = {
    "cosine_restarts": {"cycles": 3},
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


def test_tri_stage_holds_then_decays_exponentially():
    """fairseq's tri_stage_lr_scheduler: peak * exp(-log(1 / final) * t / decay_steps)."""
    config = ScheduleConfig(type="tri_stage", warmup_steps=4, hold_steps=6, final_ratio=0.01)
    found = [factor(config, step, 30) for step in range(30)]
    assert found[3:11] == [1.0] * 8
    expected = [math.exp(math.log(0.01) * (step - 10) / 20) for step in range(10, 30)]
    assert found[10:] == pytest.approx(expected)


def test_the_trunk_of_an_infinite_schedule_does_not_depend_on_the_length_of_the_run():
    trunk = {"type": "infinite", "warmup_steps": 3, "cooldown_steps": 5, "constant_ratio": 0.4}
    config = ScheduleConfig(**trunk)
    short = [factor(config, step, 12) for step in range(12)]
    assert short == [factor(config, step, 5000) for step in range(12)]
    assert short[2:4] == [1.0, 1.0]
    assert short[8:] == [0.4] * 4
    assert factor(config, 4999, 5000) == 0.4
    release = ScheduleConfig(**trunk, decay_steps=4, final_ratio=0.04)
    branch = [factor(release, step, 16) for step in range(16)]
    assert branch[:13] == [factor(config, step, 5000) for step in range(13)]
    assert branch[12:] == pytest.approx([0.4 * 0.1 ** (i / 4) for i in range(4)])


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"type": "linear", "cycles": 2}, "cycles"),
        ({"type": "cosine", "hold_steps": 2}, "hold_steps"),
        ({"type": "constant", "final_ratio": 0.1}, "final_ratio"),
        ({"type": "wsd", "constant_ratio": 0.5}, "constant_ratio"),
        ({"type": "tri_stage"}, "final_ratio"),
        ({"type": "infinite", "decay_steps": 3}, "final_ratio"),
    ],
)
def test_numbers_that_a_shape_does_not_use_are_problems(raw, field):
    assert [problem.path for problem in ScheduleConfig(**raw).problems()] == [field]


@pytest.mark.parametrize(
    ("width", "imported", "lora", "expected"),
    [
        (64, False, False, 2e-3),
        (256, False, False, 1e-3),
        (768, True, False, 5e-5),
        (384, True, False, 1e-4),
        (1024, True, False, 3.75e-5),
        (32, True, False, 4e-4),
        (768, True, True, 5e-4),
        (64, False, True, 5e-3),
    ],
)
def test_the_rule(width, imported, lora, expected):
    rate = usual_rate(width, imported=imported, lora=lora)
    assert rate.value == pytest.approx(expected, rel=1e-2)
    assert str(width) in rate.reason
    assert ("LoRA" in rate.reason) == lora


def test_a_descendant_of_an_import_counts_as_imported(tmp_path):
    zoo = Zoo(tmp_path)
    own = commit_tiny(zoo, "own")
    assert "trained here" in rate_for(zoo, own, lora=False).reason
    parent = own
    for name, kind in (("theirs", "imported"), ("child", "finetuned")):
        parents = [] if kind == "imported" else [parent]
        with zoo.draft(name, kind=kind, producer={}, parents=parents, task=None) as draft:
            write_tiny(draft.path)
            parent = draft.commit()
    assert "imported" in rate_for(zoo, parent, lora=False).reason
