"""The composed step: parts that are off, parts that are on, and steps that are skipped."""

import math

import numpy as np
import pytest
import torch

from orchestrator.continual.config import PRESETS, MethodConfig
from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.loop import Hooks, train
from tests.unit.continual.cf_reference import Net, task_data, torch_batch
from tests.unit.continual.net_task import step_of

OPTIMIZER = OptimizerConfig(learning_rate=0.02)
CONFIG = TrainConfig(max_steps=12, log_every_steps=1, optimizer=OPTIMIZER)


class Source:
    def __init__(self, name="one", index=0, size=8):
        self.name, self.size = name, size
        self.x, self.y = task_data(index)
        self.asked = []

    def window(self, step, rank, world):
        self.asked.append(step)
        pick = np.random.default_rng(step).choice(len(self.y), self.size, replace=False)
        pick = np.array_split(pick, world)[rank]
        return [torch_batch(self.name, self.x[pick], self.y[pick])]

    def epoch(self, step):
        return 0.0


def run(settings, *, anchored=True, buffers=(), engine=None, **options):
    engine = engine or SingleEngine(Net(), OPTIMIZER)
    full = {n: v for n, v in engine.gathered().items() if not n.startswith("targets.one")}
    importance = {n: torch.ones_like(v) for n, v in full.items()}
    left = {"weights": full, "importance": importance} if anchored else {}
    events = []
    step = step_of(settings, engine, CONFIG.max_grad_norm, windows=buffers, **left)
    train(engine, Source(), CONFIG, hooks=Hooks(observer=events.append), step_fn=step, **options)
    return engine, [event.metrics for event in events]


def weights(engine):
    return dict(engine.state_dict())


def equal(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def plain():
    engine = SingleEngine(Net(), OPTIMIZER)
    events = []
    train(engine, Source(), CONFIG, hooks=Hooks(observer=events.append))
    return weights(engine), [event.metrics["loss"] for event in events]


def test_all_off_is_plain_adamw_bit_by_bit(plain):
    settings = MethodConfig(
        preset="c&f", create={"rho": 0.0}, find={"penalty": 0.0}, clamp={"enabled": False}
    )
    engine, metrics = run(settings)
    assert equal(weights(engine), plain[0])
    assert [m["loss"] for m in metrics] == plain[1]


@pytest.mark.parametrize("anchored", [True, False])
def test_finetune_preset_is_plain_adamw(plain, anchored):
    engine, _ = run(MethodConfig(preset="finetune"), anchored=anchored)
    assert equal(weights(engine), plain[0])


@pytest.mark.parametrize("preset", ["ewc", "sam", "c&f"])
def test_each_part_changes_the_run(plain, preset):
    clamp = {"radius": 0.01, "floor": 0.001}
    engine, _ = run(MethodConfig(preset=preset, clamp=clamp, find={"penalty": 5.0}))
    assert not equal(weights(engine), plain[0])


def test_first_task_of_ewc_is_plain(plain):
    engine, metrics = run(MethodConfig(preset="ewc"), anchored=False)
    assert equal(weights(engine), plain[0])
    assert "penalty" not in metrics[0]


def test_metrics_say_what_each_part_did():
    _, metrics = run(MethodConfig(preset="c&f", clamp={"radius": 0.0, "floor": 0.001}))
    assert metrics[0]["penalty"] == 0.0
    assert metrics[-1]["penalty"] > 0.0
    assert 0.0 < metrics[-1]["clamped_share"] <= 1.0
    assert np.mean([m["sharpness"] for m in metrics]) > 0.0


def test_a_stronger_penalty_stays_closer():
    moved = []
    for penalty in (0.0, 1.0, 100.0):
        engine = SingleEngine(Net(), OPTIMIZER)
        before = engine.gathered()
        run(MethodConfig(preset="ewc", find={"penalty": penalty}), engine=engine)
        after = engine.gathered()
        moved.append(float((after["trunk.0.weight"] - before["trunk.0.weight"]).norm()))
    assert moved[0] > moved[1] > moved[2]


def test_box_holds_after_every_step():
    engine = SingleEngine(Net(), OPTIMIZER)
    before = engine.gathered()
    clamp = {"radius": 0.05, "floor": 0.01}
    run(MethodConfig(preset="c&f", clamp=clamp), engine=engine)
    for name, after in engine.gathered().items():
        if name.startswith("trunk"):
            half = (0.05 * before[name].abs()).clamp(min=0.01)
            assert bool(((after - before[name]).abs() <= half * (1 + 1e-6)).all())


def test_replay_steps_each_earlier_task_when_due_and_moves_its_head_only_then():
    buffers = [Source("two", 1), Source("three", 2)]
    engine = SingleEngine(Net(), OPTIMIZER)
    heads = {n: v for n, v in engine.gathered().items() if n.startswith("targets.t")}
    settings = MethodConfig(preset="replay", replay={"every_steps": 5})
    _, metrics = run(settings, buffers=buffers, engine=engine, until_step=4)
    now = engine.gathered()
    assert equal(heads, {n: now[n] for n in heads})
    assert [buffer.asked for buffer in buffers] == [[], []]
    engine, metrics = run(settings, buffers=buffers)
    assert [buffer.asked for buffer in buffers] == [[0, 1], [0, 1]]
    assert [i for i, m in enumerate(metrics) if "replay_loss" in m] == [4, 9]
    now = engine.gathered()
    assert not any(torch.equal(heads[n], now[n]) for n in heads)


def test_a_non_finite_loss_skips_and_restores():
    engine = SingleEngine(Net(), OPTIMIZER)
    before = weights(engine)
    step = step_of(MethodConfig(preset="c&f"), engine, 1.0)
    x, y = task_data(0)
    metrics = step(engine, [torch_batch("one", np.full_like(x, math.inf), y)], 0.1)
    assert metrics["skipped"] == 1.0
    assert equal(weights(engine), before)


class Steep(Net):
    """A loss that is finite at the start weights and not finite anywhere else."""

    home = None

    def forward(self, batch):
        away = not torch.equal(self.trunk[0].weight, self.home)
        return {
            k: v * math.nan if k.startswith("loss") and away else v
            for k, v in super().forward(batch).items()
        }


def test_a_second_pass_that_overflows_skips_and_restores():
    model = Steep()
    model.home = model.trunk[0].weight.detach().clone()
    engine = SingleEngine(model, OPTIMIZER)
    before = weights(engine)
    x, y = task_data(0)
    step = step_of(MethodConfig(preset="sam"), engine, 1.0)
    metrics = step(engine, [torch_batch("one", x, y)], 0.1)
    assert metrics["skipped"] == 1.0
    assert math.isfinite(metrics["loss"])
    assert equal(weights(engine), before)
    assert engine.optimizer.state == {}


def test_both_passes_draw_the_same_noise():
    seen = []

    class Noisy(Net):
        def forward(self, batch):
            seen.append(torch.rand(3))
            return super().forward(batch)

    engine = SingleEngine(Noisy(), OPTIMIZER)
    step = step_of(MethodConfig(preset="sam"), engine, 1.0)
    x, y = task_data(0)
    window = [torch_batch("one", x[:8], y[:8]), torch_batch("one", x[8:], y[8:])]
    step(engine, window, 0.1)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_presets_switch_and_own_switches_win():
    assert PRESETS["c&f"] == ("create", "find", "clamp")
    settings = MethodConfig(preset="c&f", clamp={"enabled": False}, replay={"enabled": True})
    assert [part.type_name() for part in settings.used()] == ["create", "find", "replay"]
