"""Spot instances: a node that will be taken away costs no step; the run goes on on other nodes."""

import sys
import time
from contextlib import ExitStack

import pytest

from tests.support.hosts import (
    ROOT,
    drain,
    hosts,
    node_of,
    require_hosts,
    shipped_detection,
    start_node,
)
from tests.support.steady import Run

PAUSE_S, NOTICE_S = 0.2, 90
DEADLINE_S = 240
STEPS_MORE = 15


@pytest.mark.root
def test_a_drained_node_costs_no_step_and_the_run_goes_on_where_there_is_room(tmp_path):
    """Two workers on two hosts; one is drained, and there is room again when a third one joins."""
    require_hosts()
    with ExitStack() as stack:
        head, leaving, joining = stack.enter_context(hosts(3, shipped_detection()))
        address = f"{head.address}:6379"
        start_node(head, None, stack)
        start_node(leaving, address, stack)
        run, log = Run.named(tmp_path, "drained", PAUSE_S), tmp_path / "log"
        fixed = (
            *(f"cluster.address={address}", "cluster.workers=2", "cluster.max_failures=0"),
            "train.checkpoint_every_steps=1000000",  # only the notice saves
            "cluster.spare_workers=false",  # else it trains on for half of the notice
        )
        driver = start(head, run, log, fixed)

        def alive():
            assert driver.poll() is None, log.read_text()[-6000:]

        run.wait(lambda row: row["step"] >= 5, alive, DEADLINE_S)
        told, node = time.time(), node_of(leaving)
        drain(head, address, node, NOTICE_S)
        while not run.committed():
            alive()
            assert time.time() - told < NOTICE_S, log.read_text()[-6000:]
            time.sleep(0.05)
        ((saved, _),) = run.committed().items()
        print(f"saved {time.time() - told:.1f} s after the notice")
        start_node(joining, address, stack)
        leaving.kill()
        before = run.last()["pid"]
        row = run.wait(lambda row: row["pid"] != before, alive, DEADLINE_S)
        print(f"training again {row['at'] - told:.1f} s after the notice")
        end = run.finish(STEPS_MORE)
        assert driver.wait(timeout=DEADLINE_S) == 3, log.read_text()[-6000:]  # told to end
        assert f"node {node} of ranks" in log.read_text()
        assert next(row["first"] for row in run.rows() if row["pid"] != before) == saved
        for rank in (0, 1):  # each step once, on both
            assert [row["step"] for row in run.rows(rank)] == list(range(1, end + 1))

        quiet = Run.named(tmp_path, "quiet")
        quiet.end_at(end)
        assert start(head, quiet, log, fixed).wait(timeout=DEADLINE_S) == 3
        assert run.losses() == quiet.losses()  # bit for bit


def start(host, run, log, more):
    """Start a driver on a host."""
    command = (sys.executable, "-m", "tests.support.steady", *run.overrides(*more))
    return host.start(*command, log=log, cwd=ROOT)
