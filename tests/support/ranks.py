"""Several ranks of one process group on this machine, without Ray; each is a forked process."""

import json
import os
import traceback

import torch
from torch import distributed

from orchestrator.cluster.context import Worker

DEADLINE_S = 120


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
            timeout=torch.distributed.constants.timedelta(seconds=DEADLINE_S),
        )
        found = work(Worker(rank, world, run))
        (folder / f"rank-{rank}.json").write_text(json.dumps(found))
        distributed.barrier()
        code = 0
    except BaseException:
        (folder / f"error-{rank}").write_text(f"rank {rank}\n{traceback.format_exc()}")
    finally:
        os._exit(code)
