"""Rows 3, 4 and 5: hosts that come, go, are cut off, and have a bad network; with the health checks
with which ``cluster.yaml`` starts a head."""

import math
import sys
import time
from contextlib import ExitStack

import pytest

from tests.support.hosts import (
    ROOT,
    hosts,
    require_hosts,
    shipped_detection,
    start_node,
    start_ray,
)
from tests.support.steady import WAIT_S, Run, undisturbed

EVERY, PAUSE_S = 5, 0.1
WRITING = 5  # steps that may be done while the checkpoint before them is being written
LOSS_DEADLINE_S, JOIN_DEADLINE_S = 400, 400
CUT_S = 10.0

pytestmark = [pytest.mark.chaos, pytest.mark.root]


class Cluster:
    """A head with one CPU on one host; the other host joins and leaves."""

    def __init__(self, stack, folder):
        self.stack, self.folder = stack, folder
        self.head, self.other = stack.enter_context(hosts(2, shipped_detection()))
        self.address = start_ray([self.head], stack)

    def join(self):
        """Let the other host join, unless it is there."""
        self.other.heal()
        if not self.other.pids("/raylet/raylet "):
            self.other.kill()
            start_node(self.other, self.address, self.stack)

    def leave(self):
        """Let the other host be gone."""
        self.other.kill()

    def start(self, name):
        """Start a driver on the head's host."""
        return Driver(self, name)


class Driver:
    """``orchestrator pretrain`` on one or two workers, in a process of its own."""

    def __init__(self, cluster, name):
        self.folder = cluster.folder
        self.run, self.log = Run.named(self.folder, name, PAUSE_S), self.folder / f"{name}.log"
        overrides = self.run.overrides(
            *(f"cluster.address={cluster.address}", "cluster.workers={min: 1, max: 2}"),
            *("cluster.max_failures=3", "cluster.resize_interval_s=2", "engine.zero_stage=3"),
            f"train.checkpoint_every_steps={EVERY}",
        )
        command = (sys.executable, "-m", "tests.support.steady", *overrides)
        self.process = cluster.head.start(*command, log=self.log, cwd=ROOT)

    def wait(self, condition, seconds=WAIT_S):
        def alive():
            assert self.process.poll() is None, self.log.read_text()[-6000:]

        return self.run.wait(condition, alive, seconds)

    def finish(self):
        """Let the run end; returns the last row, after a check against the quiet training."""
        end = self.run.finish()
        assert self.process.wait(timeout=WAIT_S) == 3, self.log.read_text()[-6000:]  # told to end
        pairs = zip(self.run.losses(), undisturbed(self.folder, end), strict=True)
        assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in pairs)
        return self.run.last()

    def lost_since(self, group, seconds):
        """Wait for the group after ``group``; returns its row and the steps that were lost."""
        row = self.wait(lambda row: row["pid"] != group["pid"], seconds)
        reached = max(each["step"] for each in self.run.rows() if each["pid"] == group["pid"])
        lost = reached - row["first"]
        assert lost <= EVERY + WRITING
        return row, lost


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    require_hosts()
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path_factory.mktemp("nodes"))


def test_a_group_grows_onto_a_host_that_joins_and_shrinks_when_its_raylet_dies(cluster):
    cluster.leave()
    driver = cluster.start("growing")
    alone = driver.wait(lambda row: row["step"] > 2 * EVERY)
    assert set(driver.run.committed().values()) == {1}

    cluster.join()
    joined = time.time()
    pair, _ = driver.lost_since(alone, JOIN_DEADLINE_S)
    assert pair["world"] == 2
    print(f"grew to 2 workers {pair['at'] - joined:.1f} s after the host had joined")
    pair = driver.wait(lambda row: row["step"] > pair["first"] + 2 * EVERY + WRITING)
    assert set(driver.run.committed().values()) == {2}

    cluster.other.kill_raylet()
    killed = time.time()
    row, lost = driver.lost_since(pair, LOSS_DEADLINE_S)
    print(f"raylet killed: {lost} steps lost, training again after {row['at'] - killed:.1f} s")
    driver.wait(lambda row: row["step"] > row["first"] + 2 * EVERY)
    assert driver.finish()["world"] == 1
    assert [world for _, world, _, _ in driver.run.groups()] == [1, 2, 1]


def test_a_cut_that_heals_costs_nothing_but_time(cluster):
    cluster.join()
    driver = cluster.start("healing")
    before = driver.wait(lambda row: row["world"] == 2 and row["step"] > row["first"] + EVERY)
    cluster.other.cut()
    time.sleep(CUT_S)
    cluster.other.heal()
    healed = time.time()
    stood = driver.run.last()["step"]
    row = driver.wait(lambda row: row["step"] > stood + 1)
    print(f"cut for {CUT_S:g} s; training again {row['at'] - healed:.1f} s after it healed")
    assert row["pid"] == before["pid"]
    assert driver.finish()["world"] == 2
    after = [each["step"] for each in driver.run.rows() if each["pid"] == before["pid"]]
    assert after == list(range(before["first"] + 1, after[-1] + 1))  # no step twice


def test_a_slow_and_flapping_network_fails_nothing(cluster):
    cluster.join()
    driver = cluster.start("slow")
    before = driver.wait(lambda row: row["world"] == 2 and row["step"] > row["first"] + EVERY)
    delay = ("netem", "delay", "200ms")
    queue = ("tbf", "rate", "1mbit", "burst", "5kb", "latency", "400ms")
    for host in (cluster.head, cluster.other):
        shaped = host.traffic(*delay) or host.traffic(*queue)
        assert shaped, "this kernel shapes no traffic"
    try:
        slow = driver.run.last()
        driver.wait(lambda row: row["step"] > slow["step"] + 2 * EVERY)
        for _ in range(3):
            cluster.other.cut()
            time.sleep(1.0)
            cluster.other.heal()
            time.sleep(2.0)
        flapped = driver.run.last()
        row = driver.wait(lambda row: row["step"] > flapped["step"] + 2 * EVERY)
        pace = (row["at"] - slow["at"]) / (row["step"] - slow["step"])
        print(f"{pace:.2f} s a step on the slow network; {PAUSE_S} s of them are a pause")
        assert row["pid"] == before["pid"]
    finally:
        for host in (cluster.head, cluster.other):
            host.traffic("pfifo")
    assert driver.finish()["world"] == 2


def test_a_host_that_stays_cut_off_is_left_behind(cluster):
    cluster.join()
    driver = cluster.start("cut")
    pair = driver.wait(lambda row: row["world"] == 2 and row["step"] > row["first"] + EVERY)
    cluster.other.cut()
    cut = time.time()
    row, lost = driver.lost_since(pair, LOSS_DEADLINE_S)
    print(f"cable pulled: {lost} steps lost, training again after {row['at'] - cut:.1f} s")
    assert driver.finish()["world"] == 1
