"""C&F on several ranks: two DDP ranks are one process; a rank without a shard takes part."""

import math

import pytest
import torch

from orchestrator.continual.config import MethodConfig
from orchestrator.continual.fisher import gathered_fisher, sharded_fisher, skeleton_of
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from tests.support.ranks import spawn
from tests.unit.continual.cf_reference import Net, task_data, torch_batch
from tests.unit.continual.net_task import step_of

OPTIMIZER = OptimizerConfig(learning_rate=0.02, eps=1e-6)
METHOD = MethodConfig(
    preset="c&f", find={"penalty": 2.0, "normalise": False}, clamp={"radius": 0.2, "floor": 0.01}
)
STEPS = 10


def windows(rank, world):
    x, y = task_data(0)
    for step in range(STEPS):
        rows = [(step * 8 + i) % len(y) for i in range(8)][
            rank * 8 // world : (rank + 1) * 8 // world
        ]
        half = len(rows) // 2
        yield [torch_batch("one", x[part], y[part]) for part in (rows[:half], rows[half:])]


def samples():
    x, y = task_data(0)
    return [torch_batch("one", x[i : i + 1], y[i : i + 1]) for i in range(7)]


def learn(engine, rank=0, world=1):
    skeleton = skeleton_of(engine.module)
    full = {n: v for n, v in engine.gathered().items() if n.startswith("trunk")}
    ones = {n: torch.ones_like(v) for n, v in full.items()}
    step = step_of(METHOD, engine, 1.0, weights=full, importance=ones)
    metrics = [dict(step(engine, window, 0.02)) for window in windows(rank, world)]
    return {
        "weights": engine.gathered(),
        "metrics": metrics,
        "gathered": gathered_fisher(engine, skeleton, samples()),
        "sharded": sharded_fisher(engine, samples()),
    }


def ddp_rank(rank, world, folder):
    from orchestrator.training.engines.torch_engines import DDPEngine

    found = learn(DDPEngine(Net(seed=rank), OPTIMIZER), rank, world)
    torch.save(found, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    spawn(ddp_rank, 2, folder)
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
    return learn(SingleEngine(Net(seed=0), OPTIMIZER)), ranks


@pytest.mark.parametrize("what", ["weights", "gathered", "sharded"])
def test_two_ddp_ranks_are_one_process(runs, what):
    single, ranks = runs
    for found in ranks:
        for name, expected in single[what].items():
            torch.testing.assert_close(found[what][name], expected, rtol=1e-6, atol=1e-9, msg=name)


def test_metrics_are_global(runs):
    single, ranks = runs
    assert max(m["clamped_share"] for m in single["metrics"]) > 0
    for found in ranks:
        for one, other in zip(single["metrics"], found["metrics"], strict=True):
            assert other == pytest.approx(one, rel=1e-6, abs=1e-9)


class WithoutShards(SingleEngine):
    """A rank that holds no shard; the others' sums arrive in its reductions."""

    replicated = False

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.reductions = 0

    def shards(self):
        return []

    def sum_over_shards(self, value):
        assert isinstance(value, torch.Tensor)
        assert not value.any(), "this rank adds nothing"
        self.reductions += 1
        return value + 4.0


def test_a_rank_without_shards_takes_part_in_every_reduction():
    empty = WithoutShards(Net(), OPTIMIZER)
    step = step_of(METHOD, empty, 1.0, weights={"trunk.0.bias": torch.zeros(5)})
    metrics = step(empty, next(windows(0, 1)), 0.02)
    assert empty.reductions == 3, "ascent norm, gradient norm, penalty and clamped share"
    assert metrics["grad_norm"] == 2.0
    assert (metrics["penalty"], metrics["clamped_share"]) == (4.0, 1.0)
    assert math.isfinite(metrics["sharpness"])
