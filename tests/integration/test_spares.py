"""A worker that starts again is a process that had imported everything before."""

import os
import signal
import sys
import time
from contextlib import ExitStack

import pytest

from tests.support.hosts import ROOT, hosts, require_hosts, shipped_detection, start_node
from tests.support.steady import Run

DEADLINE_S = 300
PAUSE_S = 0.2
SAVING = "train.checkpoint_every_steps=10"
READY = "spare worker processes are ready"


@pytest.mark.root
def test_a_killed_worker_goes_on_in_a_process_that_was_ready(tmp_path):
    require_hosts()
    with ExitStack() as stack:
        head, other = stack.enter_context(hosts(2, shipped_detection()))
        address = f"{head.address}:6379"
        start_node(head, None, stack, cpus=0)
        start_node(other, address, stack)
        run, log = Run.named(tmp_path, "spares", PAUSE_S), tmp_path / "log"
        command = (sys.executable, "-m", "tests.support.steady")
        options = (f"cluster.address={address}", "cluster.workers=1")
        driver = head.start(*command, *run.overrides(*options, SAVING), log=log, cwd=ROOT)

        def alive():
            assert driver.poll() is None, log.read_text()[-6000:]

        for faults in (1, 2):  # the process that was taken is replaced
            run.wait(lambda _, n=faults: log.read_text().count(READY) == n, alive, DEADLINE_S)
            ready = set(other.pids())
            row = run.last()
            os.kill(row["pid"], signal.SIGKILL)
            again = run.wait(lambda now, was=row: now["pid"] != was["pid"], alive, DEADLINE_S)
            assert again["pid"] in ready
        end = run.finish()
        assert driver.wait(timeout=DEADLINE_S) == 3, log.read_text()[-6000:]  # told to end
        assert len(run.losses()) == end


DRIVER = """
import signal, os, ray
from ray.experimental.internal_kv import _internal_kv_list, _internal_kv_put
from orchestrator.cluster.preload import NAMESPACE, Preload
from orchestrator.cluster.spares import forget_ended_jobs
ray.init(address=os.environ["HEAD"])
forget_ended_jobs()
print(len(_internal_kv_list(b"", namespace=NAMESPACE)))
launch = f"{ray.get_runtime_context().get_job_id()}-a1"
task = Preload(launch=launch, threads=1, accelerated=False)
for key in (task.modules_key, task.ready_key("node", 7)):
    _internal_kv_put(key, b"[]", namespace=NAMESPACE)
forget_ended_jobs()
print(len(_internal_kv_list(b"", namespace=NAMESPACE)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_keys_of_a_killed_driver_are_removed_by_the_next_one(ray_head):
    def left_before_and_after():
        found = ray_head.run(sys.executable, "-c", DRIVER, HEAD=ray_head.address)
        assert found.returncode == -signal.SIGKILL, found.stderr
        return found.stdout

    left_before_and_after()
    deadline = time.monotonic() + DEADLINE_S
    while left_before_and_after() != "0\n2\n":  # until Ray has noticed that the one before is gone
        assert time.monotonic() < deadline
