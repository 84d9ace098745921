"""Rows 6, 7 and 13: the driver, then the whole cluster is killed; the same command goes on.

What Ray Train wrote down itself is damaged in between: nothing of it is needed.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.launcher import RAY_STORAGE
from orchestrator.zoo import Zoo
from tests.support.processes import command_of
from tests.support.ray import started_head

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
STEPS, EVERY = 60, 5
GONE_DEADLINE_S, DEADLINE_S = 60, 900
DAMAGE = {"cut": b'{"ray_version": "2.6', "empty": b"", "foreign": b'{"ray_version": "9.9.9"}'}
SNAPSHOT = "checkpoint_manager_snapshot.json"

pytestmark = pytest.mark.chaos


class Job:
    """``orchestrator pretrain`` in a shell, with one run name."""

    def __init__(self, path, name, env):
        self.run = path / "runs" / name
        self.zoo = Zoo(path / "zoo")
        self.log, self.env, self.name = path / f"{name}.log", env, name
        self.command = [
            *(sys.executable, "jobs/pretrain.py", f"--config={PRESET}"),
            *("data.max_documents=200", "data.tokenizer.vocab_size=600", "train.eval_blocks=16"),
            *("cluster.workers=1", "train.micro_batch_size=8", "train.global_batch_size=8"),
            *(f"train.max_steps={STEPS}", "train.schedule.warmup_steps=4"),
            *("train.log_every_steps=1", "train.eval_every_steps=0"),
            *(f"train.checkpoint_every_steps={EVERY}", f"run.name={name}", f"package.name={name}"),
            *(f"run.dir={path}/runs", f"run.zoo={path}/zoo"),
        ]

    def start(self):
        with self.log.open("w") as log:
            return subprocess.Popen(
                self.command, cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def run_to_the_end(self):
        assert self.start().wait(timeout=DEADLINE_S) == 0, self.log.read_text()[-6000:]

    def newest(self):
        found = [p for p in self.run.glob("checkpoints/step-*") if ".tmp-" not in p.name]
        return max((int(p.name.removeprefix("step-")) for p in found), default=0)

    def wait_for(self, step, process):
        deadline = time.monotonic() + DEADLINE_S
        while self.newest() < step:
            assert process.poll() is None, self.log.read_text()[-6000:]
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            time.sleep(0.02)

    def losses(self):
        history = self.zoo.get(self.name).history()
        found = history[(history.split == "train") & (history.metric == "loss")]
        assert found.step.tolist() == list(range(1, STEPS + 1))  # each step counts once
        return found.value.tolist()


def damage_rays_records(root, kind):
    """Leave files below a folder that Ray Train could not start from; returns Ray's folders."""
    folders = [*root.rglob(f"{RAY_STORAGE}*")]
    for folder in folders:
        names = {file.parent for file in folder.rglob("*") if file.is_file()} | {folder / "x"}
        for place in names:
            place.mkdir(parents=True, exist_ok=True)
            (place / SNAPSHOT).write_bytes(DAMAGE[kind])
    return folders


def environment(**more):
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | more


def family(pid):
    return [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]


def trainers_of(processes):
    """Those of the processes that train."""
    return [each for each in processes if "TrainWorker" in command_of(each)]


def alive(process):
    """Return whether a process runs; one that nobody has reaped does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """Losses of the same job when nothing happens to it."""
    job = Job(tmp_path_factory.mktemp("quiet"), "quiet", environment())
    job.run_to_the_end()
    return job.losses()


def test_a_killed_driver_goes_on_and_repeats_nothing_it_had_finished(quiet, tmp_path):
    job = Job(tmp_path, "killed", environment())
    process = job.start()
    job.wait_for(4 * EVERY, process)
    owned = family(process.pid)
    trainers = trainers_of(owned)
    process.kill()
    process.wait(30)
    assert trainers, "no process is called a training worker"
    deadline = time.monotonic() + GONE_DEADLINE_S
    while any(map(alive, trainers)):
        assert time.monotonic() < deadline, "workers of a killed driver go on"
        time.sleep(0.1)
    for each in owned:  # Ray's agents end by themselves a minute later, where somebody reaps
        if each.is_running():
            each.kill()
    committed = job.newest()
    corpora = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/corpora/*")}
    left = damage_rays_records(job.run, "cut")
    assert left, "row 13: records of Ray Train that a killed driver leaves"

    job.run_to_the_end()
    assert job.losses() == quiet  # bit for bit
    assert resumed_at(job) >= committed
    assert {path: path.stat().st_mtime_ns for path in corpora} == corpora
    assert not list(job.run.glob(f"{RAY_STORAGE}*"))
    assert len(job.zoo.packages()) == 1


def resumed_at(job):
    """The step at which the log of the last start begins."""
    return int(re.search(rf"{job.name}  step (\d+)/{STEPS}", job.log.read_text()).group(1))


def test_a_run_goes_on_in_a_new_cluster_after_the_head_was_killed(quiet, tmp_path):
    with started_head(num_cpus=1) as head:
        job = Job(tmp_path, "beheaded", environment(**head.env))
        process = job.start()
        job.wait_for(4 * EVERY, process)
        for each in family(head.pid):
            each.kill()
        killed = time.monotonic()
        code = process.wait(timeout=DEADLINE_S)
        print(f"the driver ended with {code} after {time.monotonic() - killed:.1f} s")
        assert code != 0
    committed = job.newest()
    assert 4 * EVERY <= committed < STEPS
    with started_head(num_cpus=1) as head:
        job.env = environment(**head.env)
        job.run_to_the_end()
    assert resumed_at(job) >= committed
    assert job.losses() == quiet


def test_nothing_of_rays_records_is_read_while_a_run_goes_on(local_ray, tmp_path):
    from tests.chaos.test_workers import PAUSE_S, Killer, train
    from tests.support.steady import Run

    damages = iter(DAMAGE.values())
    run = Run.named(tmp_path, "snapshots", PAUSE_S)

    class Damaging(Killer):
        def _kill_one(self, first, seen):
            run.wait(lambda row: row["pid"] not in seen and row["step"] > first)
            for folder in run.path.glob(f"{RAY_STORAGE}*/*"):
                damaged = next(damages)
                (folder / SNAPSHOT).write_bytes(damaged)
                break
            else:
                raise AssertionError("Ray Train keeps its records elsewhere")
            return super()._kill_one(first, seen)

    killer = Damaging(run, len(DAMAGE), seed=5)
    killer.start()
    train(run, max_failures=len(DAMAGE))
    killer.join(60)
    assert killer.error is None, killer.error
    assert len(run.losses()) == killer.end


def test_the_damage_is_one_that_ray_would_not_survive(tmp_path):
    """The oracle can fail: Ray Train refuses to restore what the tests above leave behind."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        _CheckpointManagerState,
    )

    for text in DAMAGE.values():
        with pytest.raises(Exception, match=r".+"):
            _CheckpointManagerState.parse_raw(text)
