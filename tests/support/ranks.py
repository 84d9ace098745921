"""Several ranks of one process group on this machine, without Ray; each is a process.

Those of `spawn` are forks of a process that has imported what ranks need, once per test session,
and has started no thread: most of the time of a short test is imports.

They end by ``os._exit``. A thread of gloo may still hold a tensor that Python wraps when a rank
has done its work; freeing it while the interpreter shuts down ends the process by SIGABRT
("terminate called without an active exception", pytorch/pytorch#179291 and #190489), also after
``destroy_process_group`` where an engine refers to the group. Only a busy machine shows it.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from orchestrator.cluster.context import Worker

DEADLINE_S = 120
SPAWNED_S = 1800  # for a group of processes that import all; generous, for busy machines
IMPORTED = (
    "deepspeed",
    "numpy",
    "orchestrator.cluster.engines",
    "orchestrator.pretraining.worker",
    "pytest",
    "scipy.stats",
    "tests.support.toy",
    "torch",
)
"""Modules of ranks; others are imported by each rank."""


def spawn(function, world, folder, *given, fresh=False):
    """Run ``function(rank, world, folder, *given)`` on so many new processes in a gloo group.

    They share no state with this process, unlike those of `on_ranks`.

    Args:
        function: Of a module, with arguments that can be pickled.
        world: Number of ranks.
        folder: An existing one, handed on to the function; several groups may use one.
        given: Further arguments.
        fresh: Whether they are no forks: libraries read the environment when they are loaded.

    Raises:
        torch.multiprocessing.ProcessRaisedException: A rank raised; the message has its traceback.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as meeting:
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.set_forkserver_preload([*IMPORTED, __name__])
        arguments = (dict(os.environ), world, folder, function, given, f"file://{meeting}/store")
        method = "spawn" if fresh else "forkserver"
        group = mp.start_processes(_spawned, arguments, world, join=False, start_method=method)
        deadline = time.monotonic() + SPAWNED_S
        while not group.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() < deadline:
                continue  # one of them has ended
            for process in group.processes:
                process.kill()
            raise AssertionError(f"the ranks have not ended within {SPAWNED_S} s")


def _spawned(rank, environment, world, folder, function, given, store):
    os.environ.clear()  # that of the process it is a fork of
    os.environ.update(environment, LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    function(rank, world, folder, *given)
    distributed.barrier()  # a rank that ends early would end the connections of the others
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def on_ranks(world, work, folder, run=None):
    """Run ``work(worker)`` on so many ranks; return what each returned, as JSON data.

    Args:
        world: Number of ranks.
        work: Called in each process.
        folder: An empty one for what the processes exchange.
        run: The run's folder; None: below ``folder``.
    """
    folder.mkdir(parents=True)
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            _be_rank(rank, world, work, folder, run or folder / "run")
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    assert codes == [0] * world, "\n".join(errors)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world)]


def _be_rank(rank, world, work, folder, run):
    code = 1
    try:
        os.environ.update(LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=DEADLINE_S),
        )
        found = work(Worker(rank, world, run))
        (folder / f"rank-{rank}.json").write_text(json.dumps(found))
        distributed.barrier()
        code = 0
    except BaseException:
        (folder / f"error-{rank}").write_text(f"rank {rank}\n{traceback.format_exc()}")
    finally:
        os._exit(code)
