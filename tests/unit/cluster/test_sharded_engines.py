"""ZeRO and FSDP2 on one rank in this process: the rules of the interface.

Two ranks: tests/integration/test_engines.py.
"""

import os
import subprocess
import sys

import pytest
import torch

from orchestrator.cluster.engines import build_engine, resolve
from orchestrator.cluster.engines.layouts import offset_in
from orchestrator.cluster.engines.zero_layouts import ChunkLayout, ChunkTools
from orchestrator.config import validate_config
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.optimizers import averaged
from tests.support.toy import toy_model, toy_window

OPTIMIZER = OptimizerConfig(learning_rate=3e-3, eps=1e-6)
ASSEMBLY = {
    "vocab_size": 30,
    "hidden_size": 16,
    "max_position_embeddings": 8,
    "embedding": {"parts": ["word", "pos"], "dropout": 0.0},
    "encoder": {"type": "transformer", "num_heads": 2, "num_layers": 3, "dropout": 0.0},
    "target": "mlm",
}
ZERO = ["zero1", "zero2", "zero3", "fsdp2"]

pytestmark = pytest.mark.usefixtures("process_group")


def settings(kind, precision="fp32"):
    if kind.startswith("zero"):
        return EngineConfig(type="zero", zero_stage=int(kind[-1]), precision=precision)
    return EngineConfig(type=kind, precision=precision)


def engine(kind, seed=0, precision="fp32"):
    return build_engine(toy_model(seed), OPTIMIZER, settings(kind, precision), world=1)


def advance(each, steps, heads="both"):
    losses = []
    for step in steps:
        losses.append(each.forward_backward(toy_window(step, 0, 1, heads=heads))["loss"])
        each.set_lr(3e-3)
        each.step()
    return losses


@pytest.mark.parametrize("kind", ZERO)
def test_it_trains_like_a_single_process(kind):
    reference, zero = engine("single"), engine(kind)
    assert advance(zero, range(6)) == pytest.approx(advance(reference, range(6)), rel=1e-5)
    weights, expected = zero.gathered(), reference.gathered()
    assert set(weights) == set(expected)
    assert all(torch.allclose(weights[name], expected[name], atol=5e-6) for name in weights)


@pytest.mark.parametrize("kind", ZERO)
class TestInterface:
    """The rules in the docstring of training/engines/engine.py."""

    def test_forward_backward_advances_nothing_and_repeats_bit_for_bit(self, kind):
        zero, gradients = engine(kind), []
        for _ in range(2):
            zero.forward_backward(toy_window(0, 0, 1))
            gradients.append([shard.grad.clone() for shard in zero.shards()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
        assert any(grad.abs().sum() > 0 for grad in gradients[0])

    def test_an_idle_head_has_no_gradient_and_does_not_move(self, kind):
        zero = engine(kind)
        advance(zero, range(2))
        before = zero.gathered()["targets.cls.weight"]
        advance(zero, [2], heads="lm")
        zero.forward_backward(toy_window(3, 0, 1, heads="lm"))
        idle = [s for s in zero.shards() if s.name.startswith("targets.cls")]
        assert idle
        assert all(torch.count_nonzero(shard.grad) == 0 for shard in idle)
        assert torch.equal(zero.gathered()["targets.cls.weight"], before)

    def test_masters_reach_the_forward_pass_after_refresh(self, kind):
        zero = engine(kind)
        batch = toy_window(5, 0, 1)
        before = zero.evaluate(batch)["loss"]
        saved = [shard.master.clone() for shard in zero.shards()]
        for shard in zero.shards():
            shard.master.add_(0.1)
        zero.refresh()
        assert zero.evaluate(batch)["loss"] != before
        for shard, master in zip(zero.shards(), saved, strict=True):
            shard.master.copy_(master)
        zero.refresh()
        assert zero.evaluate(batch)["loss"] == before

    def test_a_projection_is_applied_to_every_shard_before_publication(self, kind):
        zero = engine(kind)
        zero.forward_backward(toy_window(0, 0, 1))
        seen = []

        def clamp(shards):
            seen.extend(shard.name for shard in shards)
            for shard in shards:
                shard.master.clamp_(-0.01, 0.01)

        zero.step(clamp)
        assert sorted(seen) == sorted(shard.name for shard in zero.shards())
        trained = {shard.name for shard in zero.shards()}
        for name, value in zero.gathered().items():
            assert name not in trained or value.abs().max() <= 0.01

    def test_shards_are_the_trained_parameters(self, kind):
        named = toy_model().named_parameters()
        expected = {name: p.numel() for name, p in named if p.requires_grad}
        assert {s.name: s.master.numel() for s in engine(kind).shards()} == expected

    def test_an_empty_window_is_refused(self, kind):
        with pytest.raises(InputError, match="no micro-batch"):
            engine(kind).forward_backward([])


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("single", "zero2"),
        ("single", "zero3"),
        ("single", "fsdp2"),
        ("ddp", "zero1"),
        ("zero1", "zero1"),
        ("zero1", "zero3"),
        ("zero2", "zero2"),
        ("zero3", "zero1"),
        ("zero3", "zero3"),
        ("zero2", "fsdp2"),
        ("zero1", "single"),
        ("zero2", "ddp"),
        ("zero3", "single"),
        ("fsdp2", "single"),
        ("fsdp2", "zero3"),
        ("fsdp2", "fsdp2"),
    ],
)
def test_any_stage_continues_what_any_other_wrote(tmp_path, writer, reader):
    source = engine(writer)
    source.module.steps_seen.fill_(3)
    advance(source, range(4))
    source.save(tmp_path)
    target = engine(reader, seed=9)
    target.load(tmp_path)
    assert torch.equal(target.module.steps_seen, torch.full((3,), 3.0))
    expected = source.gathered()
    assert all(torch.equal(value, expected[name]) for name, value in target.gathered().items())
    same = writer == reader
    ours, theirs = advance(target, range(4, 7)), advance(source, range(4, 7))
    assert ours == theirs if same else ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("kind", ZERO)
def test_short_passes_round_neither_masters_nor_frozen_weights(tmp_path, kind):
    frozen = toy_model().frozen.weight
    assert not torch.equal(frozen, frozen.bfloat16().float())
    own = engine(kind, precision="bf16")
    begun = own.gathered()
    assert all(torch.equal(begun[name], p) for name, p in toy_model().named_parameters())
    advance(own, [0])
    own.save(tmp_path)
    other = engine(kind, seed=9, precision="bf16")
    other.load(tmp_path)
    for each in (own, other):
        assert torch.equal(dict(each.state_dict())["frozen.weight"], frozen)
    assert advance(own, [1]) == advance(other, [1])
    whole = engine("single", seed=9)
    whole.load(tmp_path)
    assert torch.equal(whole.gathered()["frozen.weight"], frozen)


@pytest.mark.parametrize("kind", ZERO)
def test_bf16_keeps_fp32_masters_and_trains(kind):
    zero = engine(kind, precision="bf16")
    losses = advance(zero, range(8))
    assert losses[-1] < losses[0]
    assert all(shard.master.dtype == torch.float32 for shard in zero.shards())
    assert all(value.dtype == torch.float32 for value in zero.gathered().values())


def test_state_dict_has_parameters_and_buffers_once():
    names = [name for name, _ in engine("zero3").state_dict()]
    assert len(names) == len(set(names))
    assert "steps_seen" in names
    assert "frozen.weight" in names
    assert "targets.lm.weight" not in names  # tied: stored under the embedding


def test_padding_is_never_touched():
    parameter = torch.nn.Parameter(torch.empty(0))
    parameter.ds_shape = torch.Size([5])
    chunk, grad = torch.tensor([3.0, 4.0, float("nan")]), torch.zeros(3)
    tools = ChunkTools(lambda p: chunk, lambda p: grad, lambda *a, **k: None)
    (shard,) = ChunkLayout(None, [("a", parameter)], 1, tools).shards()
    assert (shard.start, shard.master.tolist(), shard.grad.tolist()) == (3, [3.0, 4.0], [0.0, 0.0])
    assert list(ChunkLayout(None, [("a", parameter)], 2, tools).shards()) == []


def test_offsets_are_found_in_the_storage():
    flat = torch.zeros(10)
    assert offset_in(flat[3:5], flat) == 3
    assert offset_in(flat[1:3], flat[1:]) == 0
    assert offset_in(flat[0:1], flat[1:]) is None
    assert offset_in(torch.zeros(2), flat) is None


@pytest.mark.parametrize(
    ("kind", "world", "expected"),
    [("auto", 1, "single"), ("auto", 4, "ddp"), ("zero", 1, "zero"), ("ddp", 2, "ddp")],
)
def test_auto_means_the_simplest_engine(kind, world, expected):
    assert resolve(EngineConfig(type=kind), world) == expected


def test_single_refuses_a_group():
    with pytest.raises(InputError, match=r"engine\.type: 'single'"):
        build_engine(toy_model(), OPTIMIZER, EngineConfig(type="single"), world=2)


def test_a_changed_deepspeed_is_refused_at_the_start():
    """In a process of its own, because the change is made to DeepSpeed itself."""
    code = (
        "import torch; from torch import distributed as d;"
        "import tempfile, deepspeed.runtime.zero.stage_1_and_2 as z;"
        "d.init_process_group('gloo', init_method='file://' + tempfile.mktemp(), rank=0,"
        " world_size=1);"
        "z.DeepSpeedZeroOptimizer.update_lp_params = lambda self: None;"
        "from tests.unit.cluster.test_sharded_engines import engine; engine('zero2')"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "LOCAL_RANK": "0",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        },
    )
    assert "StageError: DeepSpeed" in shown.stderr
    assert "does not reach the weights" in shown.stderr


@pytest.mark.parametrize("kind", ZERO)
def test_an_assembly_of_components_trains_like_a_single_process(kind):
    """Tied tables, blocks in a list, the vocabulary layer that never holds all logits."""
    config = validate_config(ModelConfig, ASSEMBLY, "test")
    losses = {}
    for each in ("single", kind):
        torch.manual_seed(0)
        own = build_engine(build_model(config), OPTIMIZER, settings(each), world=1)
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(1, 30, (4, 8), generator=generator)
        batch = {"input_ids": ids, "labels.mlm": torch.where(ids % 3 == 0, ids, -100)}
        losses[each] = []
        for _ in range(5):
            losses[each].append(own.forward_backward([batch])["loss"])
            own.step()
    assert losses[kind] == pytest.approx(losses["single"], rel=1e-5)
    assert losses[kind][-1] < losses[kind][0]


@pytest.mark.parametrize("optimizer", ["lion", "lamb", "adamw8bit"])
@pytest.mark.parametrize("kind", ["zero2", "zero3", "fsdp2"])
def test_other_optimizers_are_cut_and_continue_bit_for_bit(tmp_path, kind, optimizer):
    config = OptimizerConfig(type=optimizer, learning_rate=1e-3)
    source = build_engine(toy_model(), config, settings(kind), world=1)
    losses = advance(source, range(6))
    source.save(tmp_path)
    target = build_engine(toy_model(5), config, settings(kind), world=1)
    target.load(tmp_path)
    assert advance(target, range(6, 9)) == advance(source, range(6, 9))
    plain = build_engine(toy_model(), config, settings("single"), world=1)
    assert advance(plain, range(6)) == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("kind", ["single", *ZERO])
def test_the_average_of_the_weights_is_evaluated_stored_and_restored(tmp_path, kind, optimizer):
    config = OptimizerConfig(type=optimizer, learning_rate=1e-2, average_decay=0.8)
    each = build_engine(toy_model(), config, settings(kind), world=1)
    with averaged(each):  # nothing to average yet
        start = each.gathered()
    expected = None
    for step in range(5):
        advance(each, [step])
        now = each.gathered()
        expected = now if expected is None else {n: 0.8 * expected[n] + 0.2 * now[n] for n in now}
    batch = toy_window(9, 0, 1)
    plain = each.evaluate(batch)["loss"]
    with averaged(each):
        found, loss = each.gathered(), each.evaluate(batch)["loss"]
    assert set(found) == set(expected) == set(start)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    assert loss != plain == each.evaluate(batch)["loss"]
    each.save(tmp_path)
    again = build_engine(toy_model(3), config, settings(kind), world=1)
    again.load(tmp_path)
    with averaged(again):
        assert again.evaluate(batch)["loss"] == loss
    assert again.evaluate(batch)["loss"] == plain
