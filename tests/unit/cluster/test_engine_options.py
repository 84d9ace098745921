"""Offload, fp16 with loss scaling and amendments of DeepSpeed's configuration, on one rank."""

import json
import math
import weakref

import pytest
import torch

from orchestrator.cluster.engines import build_engine, resolve
from orchestrator.config import validate_config
from orchestrator.errors import ConfigError
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.descent import descend
from orchestrator.training.engines.engine_config import REFUSED
from tests.support.toy import toy_model, toy_window

OPTIMIZER = OptimizerConfig(learning_rate=3e-3, eps=1e-6)
FP16 = {"precision": "fp16", "loss_scale": {"initial": 256.0}}  # few labels: large gradients
BF16 = {"precision": "bf16"}
BOTH = {"optimizer": "cpu", "parameters": "cpu"}
OFFLOADED = {
    "zero1": {"type": "zero", "zero_stage": 1, "offload": {"optimizer": "cpu"}},
    "zero2": {"type": "zero", "zero_stage": 2, "offload": {"optimizer": True}},
    "zero3": {"type": "zero", "zero_stage": 3, "offload": {"optimizer": "cpu"}},
    "zero3-all": {"type": "zero", "zero_stage": 3, "offload": BOTH},
    "zero3-weights": {"type": "zero", "zero_stage": 3, "offload": {"parameters": True}},
    "fsdp2": {"type": "fsdp2", "offload": BOTH},
}
KINDS = {
    "single": {"type": "single"},
    "zero1": {"type": "zero", "zero_stage": 1},
    "zero2": {"type": "zero", "zero_stage": 2},
    "zero3": {"type": "zero", "zero_stage": 3},
    "fsdp2": {"type": "fsdp2"},
}

pytestmark = pytest.mark.usefixtures("process_group")


def engine(seed=0, **settings):
    config = validate_config(EngineConfig, settings, "test")
    return build_engine(toy_model(seed), OPTIMIZER, config, world=1)


def heads_apart(step):
    """Micro-batches with different heads: what the last one uses is not what the window uses."""
    first, second = toy_window(step, 0, 1)[:2]
    names = ("labels.lm", "labels.cls") if step % 2 else ("labels.cls", "labels.lm")
    return [
        {k: v for k, v in batch.items() if k != name}
        for batch, name in zip((first, second), names, strict=True)
    ]


def advance(each, steps, window=heads_apart):
    losses = []
    for step in steps:
        metrics = each.forward_backward(window(step))
        found = descend(each, metrics, 3e-3, max_grad_norm=1.0)
        losses.append((found["loss"], found["grad_norm"]))
    return losses


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "zero3-weights", "fsdp2"])
def test_offloaded_state_changes_nothing_and_resumes_bit_for_bit(tmp_path, kind):
    reference, moved = engine(type="single"), engine(**OFFLOADED[kind])
    expected, found = advance(reference, range(12)), advance(moved, range(12))
    assert torch.tensor(found) == pytest.approx(torch.tensor(expected), rel=1e-4)
    weights = reference.gathered()
    for name, value in moved.gathered().items():
        assert (value - weights[name]).abs().max() <= 5e-6, name
    moved.save(tmp_path)
    again = engine(seed=3, **OFFLOADED[kind])
    again.load(tmp_path)
    assert advance(again, range(12, 15)) == advance(moved, range(12, 15))


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "fsdp2"])
def test_an_idle_head_has_no_gradient_with_offload(kind):
    moved = engine(**OFFLOADED[kind])
    advance(moved, range(2))
    before = moved.gathered()["targets.cls.weight"]
    for step in (2, 3):
        moved.forward_backward(toy_window(step, 0, 1, heads="lm"))
        idle = [shard for shard in moved.shards() if shard.name.startswith("targets.cls")]
        assert idle
        assert all(torch.count_nonzero(shard.grad) == 0 for shard in idle)
        moved.step()
    assert torch.equal(moved.gathered()["targets.cls.weight"], before)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("zero1", FP16), ("zero2", BF16), ("zero3-all", FP16), ("fsdp2", BF16)],
    ids=["zero1-fp16", "zero2-bf16", "zero3-fp16", "fsdp2-bf16"],
)
def test_offload_goes_with_short_number_formats(kind, numbers):
    moved = engine(**OFFLOADED[kind], **numbers)
    plain = engine(**{**OFFLOADED[kind], "offload": {}}, **numbers)
    ours, theirs = advance(moved, range(6)), advance(plain, range(6))
    assert torch.tensor(ours) == pytest.approx(torch.tensor(theirs), rel=1e-2)


class TestFp16:
    """Loss scaling is one implementation over shards; two ranks: tests/integration."""

    @pytest.mark.parametrize("kind", ["single", "zero2", "zero3", "fsdp2"])
    def test_losses_are_near_those_of_fp32(self, kind):
        half, full = engine(**KINDS[kind], **FP16), engine(**KINDS[kind])
        ours, theirs = advance(half, range(8)), advance(full, range(8))
        assert torch.tensor(ours) == pytest.approx(torch.tensor(theirs), rel=1e-2)
        half.forward_backward(toy_window(8, 0, 1))
        assert all(s.master.dtype == s.grad.dtype == torch.float32 for s in half.shards())

    @pytest.mark.parametrize("kind", ["single", "zero1", "fsdp2"])
    def test_a_scale_that_is_too_large_comes_down_and_training_goes_on(self, kind, tmp_path):
        scale = {"initial": 2.0**24, "growth_steps": 3}
        half = engine(**KINDS[kind], precision="fp16", loss_scale=scale)
        before, scales, flags = half.gathered(), [], []
        for step in range(22):
            metrics = half.forward_backward(toy_window(step, 0, 1))
            found = descend(half, metrics, 3e-3, max_grad_norm=1.0)
            scales.append(found["loss_scale"])
            flags.append((found.get("overflow", 0.0), found["skipped"]))
        overflows = [index for index, (overflow, _) in enumerate(flags) if overflow]
        assert overflows[:3] == [0, 1, 2]
        assert all(skipped == 0 for _, skipped in flags)  # no fault of the run
        assert scales[1] == scales[0] / 2
        settled = len([index for index in overflows if index < 16])
        assert max(scales[settled + 3 :]) > min(scales)  # and it grows again
        weights = half.gathered()
        assert all(torch.isfinite(value).all() for value in weights.values())
        assert not torch.equal(weights["embedding.weight"], before["embedding.weight"])
        half.save(tmp_path)
        again = engine(seed=4, **KINDS[kind], precision="fp16", loss_scale=scale)
        again.load(tmp_path)
        assert again.forward_backward(toy_window(40, 0, 1)) == half.forward_backward(
            toy_window(40, 0, 1)
        )  # the scale is in it
        assert again.skip()
        assert half.skip()
        assert again._scaler.state() == half._scaler.state() != {}


def test_a_loss_that_is_not_finite_is_a_fault_whatever_the_scale():
    half = engine(type="single", **FP16)
    with torch.no_grad():
        half.module.gain.fill_(math.inf)
    metrics = half.forward_backward(toy_window(0, 0, 1))
    found = descend(half, metrics, 3e-3, max_grad_norm=1.0)
    assert (found["skipped"], found.get("overflow")) == (1.0, None)
    half = engine(type="single", precision="fp16", loss_scale={"initial": 1.0})
    assert not half.skip()  # at the smallest scale there is nothing to lower


def test_zero_stage_0_is_data_parallelism():
    config = EngineConfig(type="zero", zero_stage=0)
    assert [resolve(config, world) for world in (1, 2)] == ["single", "ddp"]
    assert config.sharding_stage == 0


def test_a_file_amends_deepspeeds_configuration(tmp_path):
    file = tmp_path / "ds.json"
    own = {"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": False}
    file.write_text(json.dumps(own))
    amended = engine(type="zero", zero_stage=2, deepspeed=str(file))
    config = amended._engine.config
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    assert config["zero_optimization"]["stage"] == 2  # the rest is as generated
    assert config["gradient_clipping"] == 0.0
    plain = engine(type="zero", zero_stage=2)
    assert advance(amended, range(3)) == advance(plain, range(3))


def test_what_our_settings_decide_cannot_be_amended(tmp_path):
    content = {}
    for key in REFUSED:
        *sections, last = key.split(".")
        below = content
        for section in sections:
            below = below.setdefault(section, {})
        below[last] = 1
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        engine(type="zero", deepspeed=str(file))
    messages = {each.path: each.message for each in caught.value.problems}
    assert set(messages) == {f"deepspeed.{key}" for key in REFUSED}
    assert "train.max_grad_norm" in messages["deepspeed.gradient_clipping"]
    assert "engine.zero_stage" in messages["deepspeed.zero_optimization.stage"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "zero", "deepspeed": "nowhere.json"}, "cannot be read"),
        ({"type": "zero", "deepspeed": __file__}, "is not JSON"),
        ({"type": "ddp", "deepspeed": {}}, "is not read by ddp"),
        ({"type": "zero", "zero_stage": 0, "deepspeed": {}}, "is not read by ZeRO-0"),
        ({"type": "ddp", "offload": {"optimizer": "cpu"}}, "keeps all in one place"),
        ({"type": "zero", "zero_stage": 2, "offload": BOTH}, "Use zero_stage: 3"),
        ({"type": "fsdp2", "offload": {"optimizer": "cpu"}}, "Set both"),
        ({"type": "zero", "offload": {"optimizer": "nvme"}}, "offload.optimizer"),
        ({"loss_scale": {"initial": 8}}, "has no effect with precision: fp32"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        engine(**settings)


@pytest.mark.parametrize("kind", ["single", "zero3", "fsdp2"])
def test_full_parameters_come_one_at_a_time(kind):
    each = engine(**KINDS[kind])
    names, alive, most = [], set(), 0
    for name, tensor in each.state_dict():
        names.append(name)
        alive.add(name)
        weakref.finalize(tensor, alive.discard, name)
        most = max(most, len(alive))
        del tensor
    assert len(names) > 10
    assert most <= 2  # the model is never there as a whole
