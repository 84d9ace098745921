"""Muon and cautious decay are the same under every engine, on one rank, two and three."""

import pytest
import torch

from orchestrator.cluster.engines import build_engine
from orchestrator.cluster.engines.matrices import owners
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import clip_gradients
from orchestrator.training.engines.muon import Stack
from tests.support import tensor_worker as worker
from tests.support.ranks import spawn
from tests.support.stacked import stacked_model
from tests.support.toy import toy_window
from tests.unit.cluster import test_replicas

STEPS, MORE, RATE = 20, 3, 3e-3
KINDS = {
    "ddp": {"type": "ddp"},
    "zero1": {"type": "zero", "zero_stage": 1},
    "zero2": {"type": "zero", "zero_stage": 2},
    "zero3": {"type": "zero", "zero_stage": 3},
    "fsdp2": {"type": "fsdp2"},
    "zero3-all": {
        "type": "zero",
        "zero_stage": 3,
        "offload": {"optimizer": "cpu", "parameters": "cpu"},
    },
    "fsdp2-all": {"type": "fsdp2", "offload": {"optimizer": "cpu", "parameters": "cpu"}},
}
OPTIMIZERS = {
    "muon": {"type": "muon"},
    "cautious": {"type": "muon", "cautious": True, "average_decay": 0.9},
    "adamw": {"type": "adamw", "cautious": True},
}
PAIRS = [
    *((kind, "muon") for kind in KINDS),
    *((kind, "cautious") for kind in ("ddp", "zero1", "zero2", "zero3", "fsdp2")),
    ("zero2", "adamw"),
    ("fsdp2", "adamw"),
]
CHANGES = {"zero1": "fsdp2", "zero2": "zero3", "zero3": "ddp", "fsdp2": "zero2", "ddp": "zero1"}
"""Engine that wrote a checkpoint → another one that continues from it."""


def engine(kind, optimizer, world, seed=0, **more):
    settings = OPTIMIZERS[optimizer] | {"learning_rate": RATE, "eps": 1e-6, "weight_decay": 0.3}
    config = EngineConfig.model_validate(KINDS.get(kind, {"type": kind}) | more)
    model = stacked_model(seed)
    return build_engine(model, OptimizerConfig(**settings), config, world=world)


def advance(each, steps, micro=3):
    """Losses; the same rows whatever the number of ranks, a head idle in every third step."""
    losses = []
    for step in steps:
        heads = "both" if step % 3 else "lm"
        batches = toy_window(step, 0, 1, micro=micro, rows=2, heads=heads)
        metrics = each.forward_backward(batches[each.rank :: each.world])
        clip_gradients(each, 1.0)
        each.set_lr(RATE)
        each.step()
        losses.append(metrics["loss"])
    return losses


def on_rank(rank, world, folder):
    found = {}
    for kind, optimizer in PAIRS:
        if world == 3 and (optimizer != "cautious" or kind == "ddp"):
            continue  # of all that differs with padding and empty shards, one is enough
        each = engine(kind, optimizer, world)
        found[kind, optimizer] = (advance(each, range(STEPS)), each.gathered())
        if optimizer == "cautious" and world == 2:
            found |= continued(folder / kind, kind, each)
    for kind in ("zero1", "zero2", "zero3", "fsdp2") if world == 2 else ():
        each = engine(kind, "muon", world, precision="bf16")
        found[kind, "bf16"] = advance(each, range(4))
    if rank == 0:
        torch.save(found, folder / "found.pt")


def continued(place, kind, each):
    """Weights and losses after a checkpoint: uninterrupted, continued, under another engine."""
    each.save(place)
    steps, found = range(STEPS, STEPS + MORE), {}
    after = advance(each, steps), each.gathered()
    for name in (kind, CHANGES[kind]):
        other = engine(name, "cautious", each.world, seed=5)
        other.load(place)
        found[kind, "then", name] = after, (advance(other, steps), other.gathered())
    return found


def trained_on(world, folder):
    spawn(on_rank, world, folder)
    return torch.load(folder / "found.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return trained_on(2, tmp_path_factory.mktemp("muon"))


@pytest.fixture(scope="module")
def alone():
    found = {}
    for optimizer in OPTIMIZERS:
        each = engine("single", optimizer, 1)
        found[optimizer] = advance(each, range(STEPS)), each.gathered()
    found["bf16"] = advance(engine("single", "muon", 1, precision="bf16"), range(4))
    return found


def assert_same(found, expected, tolerance=1e-5):
    assert torch.tensor(found[0]) == pytest.approx(torch.tensor(expected[0]), abs=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, value in found[1].items():
        assert (value - expected[1][name]).abs().max() <= tolerance, name


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "optimizer"), PAIRS)
def test_two_ranks_train_like_one_process(two_ranks, alone, kind, optimizer):
    assert_same(two_ranks[kind, optimizer], alone[optimizer])


@pytest.mark.slow
def test_three_ranks_train_like_one_process(tmp_path, alone):
    found = trained_on(3, tmp_path)
    assert {kind for kind, _ in found} == {"zero1", "zero2", "zero3", "fsdp2"}
    for result in found.values():
        assert_same(result, alone["cautious"])
    assert not torch.equal(alone["muon"][1]["fused.weight"], alone["cautious"][1]["fused.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "other"), CHANGES.items())
def test_a_checkpoint_continues_bit_for_bit_and_under_another_engine(two_ranks, kind, other):
    (losses, weights), (found, ends) = two_ranks[kind, "then", kind]
    assert found == losses
    assert all(torch.equal(value, ends[name]) for name, value in weights.items())
    after, more = two_ranks[kind, "then", other]
    assert_same(more, after)


def curve(each, config, steps):
    """Loss and gradient norm of each step; balance of experts is one of a micro-batch."""
    way = worker if config.encoder.experts else test_replicas
    return way.advance(each, config, steps)


def meshed(rank, world, folder, name, settings):
    """Curve, weights, and what comes after a checkpoint, there and in an engine of its kind."""
    config = worker.model_config(name)
    each = worker.engine(config, world, kind="muon", **settings)
    rows = curve(each, config, range(STEPS))
    weights = each.gathered()
    each.save(folder / "state")
    again = worker.engine(config, world, seed=5, kind="muon", **settings)
    again.load(folder / "state")
    after = [curve(one, config, range(STEPS, STEPS + MORE)) for one in (each, again)]
    return {"rows": rows, "weights": weights, "after": after}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "name", "settings"),
    [
        (2, "llama", {"type": "fsdp2", "tensor_parallel": 2}),
        (4, "llama", {"type": "fsdp2", "tensor_parallel": 2}),
        (4, "llama", {"type": "fsdp2", "replicas": 2}),
        (2, "moe", {"type": "fsdp2", "expert_parallel": 2}),
    ],
)
def test_matrices_cut_twice_or_in_replicas_are_whole_for_a_step(tmp_path, world, name, settings):
    """Of columns and rows, and of two groups that hold the same."""
    found = worker.spawn(meshed, tmp_path, world, name, settings)
    assert all(rank["rows"] == found[0]["rows"] for rank in found)
    assert found[0]["after"][0] == found[0]["after"][1]
    config = worker.model_config(name)
    single = worker.engine(config, kind="muon", type="single")
    rows = curve(single, config, range(STEPS))
    assert torch.tensor(found[0]["rows"]) == pytest.approx(torch.tensor(rows), rel=1e-5)
    for name, value in single.gathered().items():
        assert (found[0]["weights"][name] - value).abs().max() <= 1e-5, name
    other = worker.engine(config, seed=9, kind="muon", type="single")
    other.load(tmp_path / "state")
    after = curve(other, config, range(STEPS, STEPS + MORE))
    assert torch.tensor(after) == pytest.approx(torch.tensor(found[0]["after"][0]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "fsdp2"])
def test_bf16_runs_on_every_engine(two_ranks, alone, kind):
    assert two_ranks[kind, "bf16"] == pytest.approx(alone["bf16"], rel=0.02)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("kind", ["zero2", "zero3", "fsdp2"])
def test_one_rank_trains_like_a_single_process(kind):
    """Every piece is a whole matrix; the exchange is that of more ranks."""
    each, single = engine(kind, "cautious", 1), engine("single", "cautious", 1)
    found = advance(each, range(4), micro=1), each.gathered()
    assert_same(found, (advance(single, range(4), micro=1), single.gathered()))


def test_owners_have_about_the_same_work_and_hold_what_they_can():
    stacks = [Stack(1, 64, 64)] * 6 + [Stack(1, 128, 64)] * 2
    thirds = [[0, 4096, 0], [4096, 0, 0]] * 3 + [[0, 0, 8192], [0, 8192, 0]]
    found = owners(stacks, thirds)
    work = [
        sum(s.size for s, owner in zip(stacks, found, strict=True) if owner == r) for r in range(3)
    ]
    assert max(work) - min(work) <= 8192 - 4096
    assert found[6] == 2
    assert found[7] == 1
