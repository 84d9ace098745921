"""State that a part gathers step by step survives a killed worker, bit for bit."""

import multiprocessing
import os
import signal
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.cluster.context import Worker
from orchestrator.continual.config import ContinualInputs
from orchestrator.continual.fisher import assembled
from orchestrator.continual.part_state import PARTS_FILE
from orchestrator.continual.parts.base import Leftovers, Part, cut
from orchestrator.continual.parts.configs import CONTINUAL_PARTS, PartConfig
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import units_of
from orchestrator.continual.worker import run
from orchestrator.errors import ConfigError, IntegrityError
from tests.support.streams import job, make_place


class PathConfig(PartConfig):
    type: Literal["path"] = "path"


@CONTINUAL_PARTS.add
class Path(Part[PathConfig]):
    """Path integral of Zenke et al. 2017 (SI), eq. 3: the running sum of -g * (w' - w)."""

    Config = PathConfig
    _sums = None

    def before_task(self, task):
        self._sums = {s.name: torch.zeros_like(s.master) for s in task.engine.shards()}

    def gradient(self, engine, compute):
        metrics = compute()
        self._before = {s.name: (s.master.clone(), s.grad.clone()) for s in engine.shards()}
        return metrics

    def projection(self):
        def add(shards):
            for shard in shards:
                weights, grad = self._before[shard.name]
                self._sums[shard.name] -= grad * (shard.master - weights)

        return add

    def after_task(self, task):
        return Leftovers(self.state(task.engine))

    def state(self, engine):
        return dict(assembled(engine, self._sums))

    def load_state(self, engine, state):
        self._sums = cut(engine, state)


class DiesAt(Worker):
    """Killed the way the kernel kills, after a number of steps."""

    limit = 0
    asked = 0

    def should_stop(self):
        DiesAt.asked += 1
        if DiesAt.asked == DiesAt.limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def payload(config):
    return ContinualInputs(config=config, zoo=config.run.zoo, package="encoder")


def die(folder, config, limit):
    torch.set_num_threads(1)
    DiesAt.limit = limit
    run(DiesAt.alone(folder), payload(config))


def killed(folder, config, limit):
    process = multiprocessing.get_context("spawn").Process(target=die, args=(folder, config, limit))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def stages(folder, config):
    return Stages(folder / "stream", units_of(config))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def config(place):
    method = {"preset": "sam", "parts": ["path"], "replay": {"enabled": True, "every_steps": 4}}
    return job(place, method=method)


@pytest.fixture(scope="module")
def interrupted(config, tmp_path_factory):
    """Killed after 8 of 12 steps of the second task; its checkpoint is at step 5."""
    folder = tmp_path_factory.mktemp("interrupted")
    killed(folder, config, 12 + 8)
    return folder


def test_a_killed_run_continues_with_the_same_sums(config, interrupted, tmp_path):
    run(Worker.alone(tmp_path), payload(config))
    run(Worker.alone(interrupted), payload(config))
    expected, found = stages(tmp_path, config), stages(interrupted, config)
    for unit in (0, 1):
        sums = expected.left(unit, "path")
        assert max(float(value.abs().max()) for value in sums.values()) > 0
        for name, value in sums.items():
            assert torch.equal(found.left(unit, "path")[name], value), name
        for name, value in expected.weights(unit).items():
            assert torch.equal(found.weights(unit)[name], value), name


def test_a_checkpoint_of_other_parts_is_refused(place, config, tmp_path):
    killed(tmp_path, config, 7)
    (checkpoint,) = (tmp_path / "checkpoints").glob("step-*")
    assert all(name.startswith("path.") for name in load_file(checkpoint / PARTS_FILE))
    without = job(place, method={"preset": "sam", "replay": {"enabled": True, "every_steps": 4}})
    with pytest.raises(IntegrityError, match=r"does not fit the parts.*path\."):
        run(Worker.alone(tmp_path), payload(without))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"parts": ["path", "path"]}, "parts.1.type: 'path' is listed twice"),
        ({"preset": "joint", "parts": ["path"]}, "parts.0: path has no meaning with preset: joint"),
    ],
)
def test_parts_that_cannot_act_are_refused(place, method, expected):
    with pytest.raises(ConfigError, match=expected):
        job(place, method=method)
