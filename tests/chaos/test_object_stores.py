"""Rows 6, 7, 8 and 13 with the run folder on an S3 server, and every machine's staging lost."""

import multiprocessing
import os
import random
import signal

import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.cluster.launcher import RAY_STORAGE
from orchestrator.storage.operations import fault_hook
from orchestrator.storage.remote.remote_store import RemoteStore
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.zoo import Zoo
from tests.chaos.test_drivers import (
    DEADLINE_S,
    EVERY,
    Job,
    damage_rays_records,
    environment,
    family,
    quiet,
    resumed_at,
    trainers_of,
)
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
    """The same job with its run folder on the store, and a staging folder for each machine."""

    def __init__(self, path, name, env, bucket):
        super().__init__(path, name, env)
        place = next(n for n, word in enumerate(self.command) if word.startswith("run.dir="))
        self.command[place] = f"run.dir={bucket}/runs"
        self.store = RemoteStore(f"{bucket}/runs/{name}")
        self.path, self.machine = path, 1

    @property
    def staging(self):
        return self.path / f"machine-{self.machine}"

    def start(self):
        self.env["ORCHESTRATOR_CACHE"] = str(self.staging)
        return super().start()

    def newest(self):
        sizes = self.store.sizes("checkpoints")
        found = [name.split("-")[1] for name in sizes if name.endswith("/manifest.json")]
        return max(map(int, found), default=0)


def kill(process):
    """End a driver and, as a lost machine does, all that it had started."""
    owned = family(process.pid)
    process.kill()
    process.wait(30)
    for each in owned:
        if each.is_running():
            each.kill()


def test_a_killed_driver_goes_on_on_another_machine(quiet, tmp_path, bucket):
    job = RemoteJob(tmp_path, "killed", environment(), bucket)
    process = job.start()
    job.wait_for(4 * EVERY, process)
    kill(process)
    committed = job.newest()
    job.machine += 1
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
        assert process.wait(timeout=DEADLINE_S) != 0
    committed = job.newest()
    job.machine += 1
    with started_head(num_cpus=1) as head:
        job.env = environment(**head.env)
        job.run_to_the_end()
    assert resumed_at(job) >= committed
    assert job.losses() == quiet


def test_damaged_records_of_ray_are_neither_read_nor_uploaded(quiet, tmp_path, bucket):
    """A worker, then the driver is killed; the same machine goes on, with its staging folder."""
    job = RemoteJob(tmp_path, "snapshots", environment(), bucket)
    job.command.append("cluster.max_failures=1")
    process = job.start()
    job.wait_for(2 * EVERY, process)
    workers = trainers_of(family(process.pid))
    assert workers, "no process is called a training worker"
    assert damage_rays_records(job.staging, "cut")
    for each in workers:
        each.kill()
    job.wait_for(job.newest() + 2 * EVERY, process)
    kill(process)
    committed = job.newest()
    assert damage_rays_records(job.staging, "foreign")
    job.run_to_the_end()
    assert resumed_at(job) >= committed
    assert job.losses() == quiet
    assert not [*job.staging.rglob(f"{RAY_STORAGE}*")]
    stored = job.store.sizes("")
    assert stored
    assert not [name for name in stored if RAY_STORAGE in name]


def save(root, lease, operation):
    """Train and save; the process ends before the operation of that number, if there is one."""
    torch.set_num_threads(1)
    ctx = Worker.alone(os.getcwd()).within(root).claimed(lease)
    engine = ctx.build_engine(toy_model(), OptimizerConfig(eps=1e-6), EngineConfig())
    found = ctx.latest_checkpoint()
    first, losses = 0, []
    if found is not None:
        engine.load(found.path)
        first, losses = found.step, found.read(AnyState).losses
    left = iter(range(operation, -1, -1))

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


def save_on(machine, *arguments):
    """Save in a process of its own, on a machine with that staging folder."""
    server = multiprocessing.get_context("forkserver")  # its children need not import all again
    server.set_forkserver_preload([__name__])
    environ = {**os.environ, "ORCHESTRATOR_CACHE": str(machine)}
    child = server.Process(target=_saved, args=(environ, *arguments))
    child.start()
    child.join(DEADLINE_S)
    assert child.exitcode in (0, -signal.SIGKILL)


def _saved(environ, *arguments):
    os.environ.update(environ)
    save(*arguments)


def test_killed_uploads_leave_nothing_unreadable(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "quiet"))
    save(f"{bucket}/quiet", 1, 10**9)
    whole = Worker.alone(tmp_path).within(f"{bucket}/quiet").latest_checkpoint()
    expected = whole.read(AnyState).losses
    draw = random.Random(SEED)
    resumed = []
    for number in range(KILLS):
        root, lease = f"{bucket}/{number // 8}", number % 8 + 1
        save_on(tmp_path / f"machine-{number}", root, lease, draw.randrange(OPERATIONS))
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
