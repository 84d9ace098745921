"""Rows 6, 7, 8 and 13 with the run folder on an S3 server, and every machine's staging lost."""

import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.storage.operations import fault_hook
from orchestrator.storage.remote.remote_store import RemoteStore
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.zoo import Zoo
from tests.chaos.test_drivers import EVERY, Job, environment, family, quiet, resumed_at
from tests.support.ray import started_head
from tests.support.s3 import settings
from tests.support.state import AnyState
from tests.support.toy import toy_model, toy_window

__all__ = ["quiet"]

KILLS = int(os.environ.get("CHAOS_STORE_SAVES", "40"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
OPERATIONS, STEPS = 200, 6

pytestmark = pytest.mark.chaos


@pytest.fixture
def bucket(s3_port):
    with settings(s3_port) as found:
        yield f"{found}/{os.urandom(4).hex()}"


class RemoteJob(Job):
    """The same job with its run folder on the store; each start has an empty staging folder."""

    def __init__(self, path, name, env, bucket):
        super().__init__(path, name, env)
        place = next(n for n, word in enumerate(self.command) if word.startswith("run.dir="))
        self.command[place] = f"run.dir={bucket}/runs"
        self.store = RemoteStore(f"{bucket}/runs/{name}")
        self.path, self.starts = path, 0

    def start(self):
        self.starts += 1
        self.env["ORCHESTRATOR_CACHE"] = str(self.path / f"machine-{self.starts}")
        return super().start()

    def newest(self):
        sizes = self.store.sizes("checkpoints")
        found = [name.split("-")[1] for name in sizes if name.endswith("/manifest.json")]
        return max(map(int, found), default=0)


def test_a_killed_driver_goes_on_on_another_machine(quiet, tmp_path, bucket):
    job = RemoteJob(tmp_path, "killed", environment(), bucket)
    process = job.start()
    job.wait_for(4 * EVERY, process)
    owned = family(process.pid)
    process.kill()
    process.wait(30)
    for each in owned:
        if each.is_running():
            each.kill()
    committed = job.newest()
    job.run_to_the_end()
    assert job.losses() == quiet  # bit for bit
    assert resumed_at(job) >= committed
    assert len(Zoo(tmp_path / "zoo").packages()) == 1


def test_a_run_goes_on_in_a_new_cluster_on_another_machine(quiet, tmp_path, bucket):
    with started_head(num_cpus=1) as head:
        job = RemoteJob(tmp_path, "beheaded", environment(**head.env), bucket)
        process = job.start()
        job.wait_for(4 * EVERY, process)
        for each in family(head.pid):
            each.kill()
        assert process.wait(timeout=240) != 0
    committed = job.newest()
    with started_head(num_cpus=1) as head:
        job.env = environment(**head.env)
        job.run_to_the_end()
    assert resumed_at(job) >= committed
    assert job.losses() == quiet


SAVER = "from tests.chaos.test_object_stores import save; import sys; save(*sys.argv[1:])"


def save(root, lease, operation):
    """Train and save; the process ends before the operation of that number, if there is one."""
    torch.set_num_threads(1)
    ctx = Worker.alone(os.getcwd()).within(root).claimed(int(lease))
    engine = ctx.build_engine(toy_model(), OptimizerConfig(eps=1e-6), EngineConfig())
    found = ctx.latest_checkpoint()
    first, losses = 0, []
    if found is not None:
        engine.load(found.path)
        first, losses = found.step, found.read(AnyState).losses
    left = iter(range(int(operation), -1, -1))

    def hook(_name, _path):
        if next(left, 1) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with fault_hook(hook):
        for step in range(first, STEPS):
            losses.append(engine.forward_backward(toy_window(step, 0, 1))["loss"])
            engine.set_lr(3e-3)
            engine.step()
            ctx.begin_checkpoint(step + 1, engine, AnyState(losses=[*losses]))
        ctx.settle_checkpoint()


def test_killed_uploads_leave_nothing_unreadable(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "quiet"))
    save(f"{bucket}/quiet", 1, 10**9)
    whole = Worker.alone(tmp_path).within(f"{bucket}/quiet").latest_checkpoint()
    expected = whole.read(AnyState).losses
    draw = random.Random(SEED)
    resumed = []
    for number in range(KILLS):
        root, lease = f"{bucket}/{number // 8}", number % 8 + 1
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / f"machine-{number}"))
        command = [sys.executable, "-c", SAVER, root, str(lease), str(draw.randrange(OPERATIONS))]
        subprocess.run(command, check=False, timeout=120)
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / f"reader-{number}"))
        reader = Worker.alone(tmp_path).within(root)
        newest = max(reader.checkpoints.steps(), default=0)
        found = reader.latest_checkpoint()
        assert (found.step if found else 0) == newest, "a committed checkpoint was damaged"
        if found is not None:
            assert found.read(AnyState).losses == expected[: found.step]
        resumed.append(newest)
    print(f"seed {SEED}, {KILLS} kills; newest steps found: {resumed}")
    assert len(set(resumed)) > 2
