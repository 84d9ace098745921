"""Hybrid sharding: replicas of a model that is cut inside of each, on four processes."""

import pytest
import torch
from torch import distributed

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError
from orchestrator.pretraining.estimate_memory import worker_memory
from orchestrator.training.config import EngineConfig
from orchestrator.training.descent import descend
from orchestrator.training.engines.engine import part_of
from tests.support import tensor_worker as worker
from tests.unit.pretraining.test_plan import SIZES

WORLD, EXACT = 4, 1e-5
HYBRID = {"type": "fsdp2", "replicas": 2}
MORE = range(worker.STEPS, worker.STEPS + 3)


def windows(config, step, rank, world):
    """Return a rank's rows of a step, in two micro-batches."""
    both = worker.window(config, step, 0, 1)
    rows = {key: torch.cat([each[key] for each in both]) for key in both[0]}
    share = worker.ROWS // world
    size = max(1, share // 2)
    return [
        {key: value[begin : begin + size] for key, value in rows.items()}
        for begin in range(rank * share, (rank + 1) * share, size)
    ]


def advance(each, config, steps):
    """Train; loss and gradient norm of each step, which is clipped to a quarter."""
    rows = []
    each.module.train()
    for step in steps:
        metrics = each.forward_backward(windows(config, step, each.rank, each.world))
        found = descend(each, metrics, worker.RATE, max_grad_norm=0.25)
        rows.append([found["loss"], found["grad_norm"]])
    return rows


def trained(rank, world, folder, name, precision):
    config = worker.model_config(name)
    own = worker.engine(config, world, precision=precision, **HYBRID)
    rows = advance(own, config, range(worker.STEPS))
    weights = own.gathered()
    shards = own.shards()
    own.save(folder / name)
    again = worker.engine(config, world, seed=5, precision=precision, **HYBRID)
    again.load(folder / name)
    whole = worker.engine(config, world, seed=6, precision=precision, type="ddp")
    whole.load(folder / name)
    elements = torch.tensor(sum(shard.master.numel() for shard in shards))
    mine = [(s.name, s.start, s.master.numel()) for s in shards]
    places = [None] * world
    distributed.all_gather_object(places, mine)
    return {
        "rows": rows,
        "weights": weights,
        "placed": all(torch.equal(part_of(weights, s), s.master) for s in shards),
        "places": places,
        "elements": (int(own.sum_over_shards(elements)), int(own.sum_over_ranks(elements))),
        "evaluation": own.evaluate(windows(config, 99, own.rank, own.world))["loss"],
        "continued": [advance(each, config, MORE) for each in (own, again, whole)],
        "same": all(
            torch.equal(value, again.gathered()[key]) for key, value in own.gathered().items()
        ),
    }


def alone(name):
    config = worker.model_config(name)
    one = worker.engine(config, type="single")
    rows = advance(one, config, range(worker.STEPS))
    return one, config, torch.tensor(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_replicas_train_like_one_process(tmp_path, name):
    """Losses, clipped norms, weights and evaluation; each row is stored once."""
    found = worker.spawn(trained, tmp_path, WORLD, name, "fp32")
    one, config, rows = alone(name)
    assert rows[:, 1].max() > 0.25  # it was clipped
    for rank in found:
        torch.testing.assert_close(torch.tensor(rank["rows"]), rows, rtol=EXACT, atol=0)
        for key, value in one.gathered().items():
            torch.testing.assert_close(rank["weights"][key], value, rtol=0, atol=EXACT, msg=key)
        assert rank["placed"]
        assert rank["same"]
    expected = one.evaluate(windows(config, 99, 0, 1))["loss"]
    assert found[0]["evaluation"] == pytest.approx(expected, rel=EXACT)
    elements = sum(value.numel() for value in one.gathered().values())
    assert found[0]["elements"] == (elements, 2 * elements)
    places = found[0]["places"]
    assert places[:2] == places[2:]
    assert places[0] != places[1]
    own, again, whole = found[0]["continued"]
    assert own == again
    assert torch.tensor(whole) == pytest.approx(torch.tensor(own), rel=EXACT)
    other = worker.engine(config, seed=9, type="single")
    other.load(tmp_path / name)
    assert torch.tensor(advance(other, config, MORE)) == pytest.approx(torch.tensor(own), rel=EXACT)


@pytest.mark.slow
def test_replicas_agree_in_bf16(tmp_path):
    found = worker.spawn(trained, tmp_path, WORLD, "llama", "bf16")
    assert all(rank["rows"] == found[0]["rows"] for rank in found)
    assert all(rank["same"] and rank["placed"] for rank in found)
    _, _, rows = alone("llama")
    torch.testing.assert_close(torch.tensor(found[0]["rows"])[:, 0], rows[:, 0], rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "zero", "replicas": 2}, "is not for ZeRO-2. Use type: fsdp2"),
        ({"type": "ddp", "replicas": 2}, "is not for ddp"),
        ({"type": "fsdp2", "replicas": 1}, "must be at least 2"),
        ({"type": "fsdp2", "replicas": 2, "tensor_parallel": 2}, "Set tensor_parallel to 1"),
    ],
)
def test_other_engines_have_no_replicas(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(EngineConfig, settings, "test")


@pytest.mark.parametrize(("workers", "fits"), [(2, False), (3, False), (4, True), (6, True)])
def test_groups_are_equally_large(workers, fits):
    found = list(EngineConfig(**HYBRID).problems_with(workers))
    assert bool(found) != fits
    assert fits or "not equally large groups of two or more" in str(found[0])


def test_a_replica_has_the_rows_of_its_group_alone():
    four, hybrid, two = (
        worker_memory(SIZES, EngineConfig(**settings), workers, 0)
        for settings, workers in [({"type": "fsdp2"}, 4), (HYBRID, 4), ({"type": "fsdp2"}, 2)]
    )
    assert hybrid == two != four
