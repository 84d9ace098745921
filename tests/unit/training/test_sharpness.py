"""Sharpness-aware steps at the end of a run, and the measurement of flatness, in one process."""

import copy
import math

import pytest
import torch

from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.descent import plain_step
from orchestrator.training.engines.engine import gradient_norm
from orchestrator.training.engines.engine_config import LossScaleConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.loop import train
from orchestrator.training.sharpness import LateSteps, perturbed_losses, worst_step
from tests.support.toy import toy_model, toy_window

RATE, RHO, CLIP, STEPS, LATE = 3e-3, 0.5, 0.7, 8, 5
OPTIMIZER = OptimizerConfig(learning_rate=RATE, eps=1e-6, weight_decay=0.0)
CONFIG = TrainConfig(
    max_steps=STEPS, max_grad_norm=CLIP, optimizer=OPTIMIZER, schedule={"type": "constant"}
)


class Windows:
    """The toy's windows as a source; every third one has labels of one head alone."""

    def __init__(self, micro=2, rows=2):
        self.cut = {"micro": micro, "rows": rows}

    def window(self, step, rank, world):
        return toy_window(step, rank, world, heads="both" if step % 3 else "lm", **self.cut)

    def epoch(self, step):
        return 0.0


def trained(step_fn, *, source=None, dropout=0.0, steps=STEPS, **engine):
    each = SingleEngine(toy_model(dropout=dropout), OPTIMIZER, **engine)
    config = CONFIG.model_copy(update={"max_steps": steps})
    train(each, source or Windows(), config, step_fn=step_fn, seed=4)
    return each.gathered()


def late(first, rho=RHO, adaptive=True, step=0):
    return LateSteps(first, rho, adaptive, CLIP, step)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def by_hand(adaptive):
    """The same run written out with torch: SAM and ASAM over the whole batch."""
    model = toy_model()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=RATE, eps=1e-6, weight_decay=0.0)

    def backward(step):
        optimizer.zero_grad(set_to_none=False)
        for parameter in named.values():
            parameter.grad = torch.zeros_like(parameter)
        batches = Windows().window(step, 0, 1)
        outputs = [model(batch) for batch in batches]
        names = {key for out in outputs for key in out if key.startswith("loss.")}
        for name in names:
            count = sum(out[name.replace("loss", "count")] for out in outputs)
            (sum(out[name] for out in outputs) / count).backward(retain_graph=True)

    for step in range(STEPS):
        backward(step)
        if step >= LATE:
            kept = {name: p.detach().clone() for name, p in named.items()}
            scaled = [p.detach() * p.grad if adaptive else p.grad for p in named.values()]
            norm = torch.cat([each.flatten() for each in scaled]).norm() + 1e-12
            with torch.no_grad():
                for parameter in named.values():
                    weight = parameter.square() if adaptive else 1.0
                    parameter.add_(RHO * weight * parameter.grad / norm)
            backward(step)
            with torch.no_grad():
                for name, parameter in named.items():
                    parameter.copy_(kept[name])
        torch.nn.utils.clip_grad_norm_(named.values(), CLIP)
        idle = () if step % 3 else ("targets.cls.weight", "targets.cls.bias")
        before = {name: named[name].detach().clone() for name in idle}
        optimizer.step()
        with torch.no_grad():
            for name, value in before.items():
                named[name].copy_(value)
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("adaptive", [True, False])
def test_late_steps_are_their_equations(adaptive):
    expected, found = by_hand(adaptive), trained(late(LATE, adaptive=adaptive))
    plain = trained(None)
    for name, value in found.items():
        assert (value - expected[name]).abs().max() <= 2e-6, name
    assert (plain["embedding.weight"] - found["embedding.weight"]).abs().max() > 1e-4


def test_until_then_the_run_is_the_ordinary_one_bit_for_bit():
    assert same(trained(late(STEPS), dropout=0.2), trained(None, dropout=0.2))
    assert same(trained(late(LATE), steps=LATE), trained(None, steps=LATE))
    assert same(trained(late(0, rho=0.0)), trained(None))


def test_accumulation_does_not_change_the_run():
    whole = trained(late(LATE), source=Windows(micro=1, rows=8))
    cut = trained(late(LATE), source=Windows(micro=4, rows=2))
    for name, value in whole.items():
        assert (value - cut[name]).abs().max() <= 5e-6, name


def test_both_gradients_see_the_same_noise(monkeypatch):
    """With a radius that moves nothing, a late step is a plain one, dropout or not."""
    found = trained(late(0, rho=1e-30), dropout=0.3)
    expected = trained(None, dropout=0.3)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-7, rtol=0)


def test_the_gradient_at_the_worst_point_is_the_one_that_is_clipped():
    each = SingleEngine(toy_model(), OPTIMIZER)
    window = Windows().window(1, 0, 1)
    metrics = worst_step(0.01, RHO, adaptive=True)(each, window, RATE)
    assert metrics["grad_norm"] > 0.01
    assert float(gradient_norm(each)) == pytest.approx(0.01, rel=1e-3)
    assert metrics["sharpness"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_formats_stay_near_fp32(precision):
    scale = LossScaleConfig(initial=256.0)  # few labels: large gradients
    expected = trained(late(LATE))
    found = trained(late(LATE), precision=precision, loss_scale=scale)
    for name, value in found.items():
        assert (value - expected[name]).abs().max() < 0.02, name


def test_an_overflow_skips_the_step_and_lowers_the_scale_once():
    each = SingleEngine(toy_model(), OPTIMIZER, precision="fp16")
    each._scaler.scale = 2.0**30
    before = each.gathered()
    metrics = worst_step(CLIP, RHO, adaptive=True)(each, Windows().window(1, 0, 1), RATE)
    assert metrics["overflow"] == 1.0
    assert each._scaler.scale == 2.0**29
    assert same(each.gathered(), before)


def test_flatness_is_measured_at_the_weights_and_changes_nothing():
    each = SingleEngine(toy_model(dropout=0.5), OPTIMIZER)
    each.module.train()
    before, batches = copy.deepcopy(each.gathered()), toy_window(3, 0, 1)
    loss, there = perturbed_losses(each, batches, RHO, adaptive=True)
    assert loss == each.evaluate(batches)["loss"]
    assert there > loss
    assert each.module.training
    assert same(each.gathered(), before)
    again = perturbed_losses(each, batches, RHO, adaptive=True)
    assert again == (loss, there)
    near = perturbed_losses(each, batches, 0.1 * RHO, adaptive=True)[1]
    assert loss < near < there


def test_flatness_of_a_model_that_diverged_is_not_a_number():
    each = SingleEngine(toy_model(), OPTIMIZER)
    with torch.no_grad():
        each.module.gain.fill_(math.inf)
    loss, there = perturbed_losses(each, toy_window(3, 0, 1), RHO, adaptive=True)
    assert not math.isfinite(loss)
    assert math.isnan(there)


def test_sharpness_aware_steps_end_flatter():
    """What they are for: the same run ends where the loss rises less nearby."""
    batches, found = toy_window(1000, 0, 1, micro=1, rows=16), {}
    for name, step_fn in {"late": late(20), "plain": plain_step(CLIP)}.items():
        each = SingleEngine(toy_model(), OPTIMIZER)
        config = CONFIG.model_copy(update={"max_steps": 60})
        train(each, Windows(), config, step_fn=step_fn, seed=4)
        loss, there = perturbed_losses(each, batches, RHO, adaptive=True)
        found[name] = there - loss
    assert found["late"] < found["plain"]
