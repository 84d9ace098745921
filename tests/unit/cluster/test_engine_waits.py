"""How often a step of each engine waits for its device, through the training loop."""

import pytest
import torch
from torch import distributed
from torch.distributed.distributed_c10d import BackendConfig

from orchestrator.cluster.engines import build_engine, sharded
from orchestrator.cluster.processes import ACCELERATED_BACKEND
from orchestrator.training.config import EngineConfig, OptimizerConfig, TrainConfig
from orchestrator.training.engines import on_device, reductions, torch_engines
from orchestrator.training.loop import Hooks, train
from tests.support.toy import toy_model, toy_window
from tests.support.watched_device import WatchedDevice

STEPS = 4

pytestmark = pytest.mark.usefixtures("process_group")


class Windows:
    """Two micro-batches a step; one head is idle in every second one."""

    def window(self, step, rank, world):
        return toy_window(step, rank, world, heads="both" if step % 2 else "lm")

    def epoch(self, step):
        return 0.0


@pytest.fixture
def device(monkeypatch):
    watched = WatchedDevice()

    def moved(batch, place):
        found = {name: value.clone() for name, value in batch.items()}
        watched.put(*found.values())
        return found

    monkeypatch.setattr(on_device, "reads_wait", lambda place: True)
    for module in (torch_engines, sharded):
        monkeypatch.setattr(module, "to_device", moved)
    return watched


def engine_of(kind, precision="fp32"):
    zero = kind.startswith("zero")
    settings = {"type": "zero", "zero_stage": int(kind[-1])} if zero else {"type": kind}
    config = EngineConfig(**settings, precision=precision)
    return build_engine(toy_model(), OptimizerConfig(eps=1e-6), config, world=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["single", "ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_steps_wait_for_the_device_once_an_interval(kind, precision, device):
    engine = engine_of(kind, precision)
    device.put(*engine.module.parameters(), *engine.module.buffers())
    device.put(*(shard.master for shard in engine.shards()))
    config = TrainConfig(max_steps=STEPS, log_every_steps=STEPS)
    with device:
        result = train(engine, Windows(), config, hooks=Hooks(should_stop=lambda: False))
    assert result.steps == STEPS
    assert result.train["loss"] > 0
    assert device.operations > 50 * STEPS
    assert len(device.waits) == 1, "\n".join(device.waits)


@pytest.mark.parametrize(("backends", "place"), [("cpu:gloo,cuda:nccl", "cpu"), ("nccl", "meta")])
def test_what_the_host_knows_does_not_pass_through_the_device(backends, place, monkeypatch):
    """Numbers of labels, requests to stop: added by the hosts where their group can."""
    added = []
    monkeypatch.setattr(distributed, "get_backend_config", lambda: backends)
    monkeypatch.setattr(distributed, "all_reduce", lambda t, group=None: added.append(t.device))
    if place == "cpu":
        value = torch.ones(2)
        found = reductions.sum_over_processes(value, torch.device("meta"))
        assert found is not value
        assert found.tolist() == [1.0, 1.0]
    else:
        with pytest.raises(NotImplementedError):  # nothing comes back from this device
            reductions.sum_over_processes(torch.ones(2), torch.device("meta"))
    assert [each.type for each in added] == [place]


def test_a_group_with_accelerators_has_a_backend_for_hosts():
    config = BackendConfig(distributed.Backend(ACCELERATED_BACKEND))
    assert str(config) == "cpu:gloo,cuda:nccl"
