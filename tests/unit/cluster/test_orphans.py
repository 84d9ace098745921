"""A worker whose node process is gone ends, also where nobody reaps the dead."""

import os
import subprocess
import sys
import time

WORKER = """
import os, sys, time
from orchestrator.cluster import processes
processes.ORPHAN_POLL_S = 0.02
processes._end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""
NODE = f"""
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdout=subprocess.PIPE, text=True)
print(worker.stdout.readline(), end="", flush=True)
time.sleep(60)
"""


def running(pid):
    """Return whether a process does anything: a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_ends_with_its_node():
    node = subprocess.Popen([sys.executable, "-c", NODE], stdout=subprocess.PIPE, text=True)
    try:
        worker = int(node.stdout.readline())
        assert running(worker)
        assert node.poll() is None
    finally:
        node.kill()  # and stays a zombie until it is waited for
    deadline = time.monotonic() + 30
    while running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(node.pid, 0)  # the id of the node still exists: looking at that finds nothing wrong
    node.wait()
