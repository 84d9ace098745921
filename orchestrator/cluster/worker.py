"""The function that Ray Train runs on every worker: prepare the process, call the stage, report.

Failures are told to the driver before they are raised, because Ray Train would start the whole
worker group again for an error that can only repeat. When one rank ends with such an error, its
process group is closed, which ends the collective that the other ranks wait in.
"""

import importlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from orchestrator.cluster.checkpoints.fencing import FencedError
from orchestrator.cluster.failures import describe
from orchestrator.cluster.observe.mailbox import RayLine, living_nodes
from orchestrator.errors import OrchestratorError

logger = logging.getLogger(__name__)

Result = dict[str, Any]
VALUE, GAVE_UP = "value", "gave_up"
ORPHAN_POLL_S = 1.0


def train_loop(config: dict[str, Any]) -> Result:
    """Run one worker function on one rank.

    Args:
        config: ``worker`` ("module:function"), ``payload`` (JSON text), ``run_dir``, ``actor``
            (the mailbox), ``threads``, ``accelerated``.

    Returns:
        ``{"value": <the function's result>}``, or ``{"gave_up": True}`` when the mailbox holds the
        reason.
    """
    _prepare_process(config)
    import ray
    import torch

    from orchestrator.cluster.context import WorkerContext

    torch.set_num_threads(config["threads"])
    actor = config["actor"]
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    context = WorkerContext(
        rank, world, Path(config["run_dir"]), _device(config["accelerated"]), RayLine(actor)
    )
    try:
        given_up = rank == 0 and ray.get(actor.begin.remote(living_nodes())) is not None
        if context.agree(int(given_up)):
            return {GAVE_UP: True}
        actor.joined.remote(ray.get_runtime_context().get_node_id())
        context.emit({"event": "started", "world": world})
        value = _load(config["worker"])(context, json.loads(config["payload"]))
        context.barrier()  # the controller ends the group as soon as one rank fails to
        return {VALUE: value if rank == 0 else None}
    except FencedError as error:  # what is left of an older group does not end the launch
        logger.warning("rank %d: %s", rank, error)
        raise
    except OrchestratorError as error:
        ray.get(actor.fail.remote(describe(error), final=True))
        torch.distributed.destroy_process_group()
        return {GAVE_UP: True}
    except Exception as error:
        if ray.get(actor.is_final.remote()):  # another rank gave up and took the group along
            return {GAVE_UP: True}
        ray.get(actor.fail.remote(describe(error), final=False))
        raise


def _prepare_process(config: dict[str, Any]) -> None:
    """Quieten the libraries and pin what they read from the environment at import."""
    if not config["accelerated"]:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    _end_with_parent()


def _end_with_parent() -> None:
    """End this process as soon as the node process that started it is gone.

    Ray looks whether that process id still exists, which it does for ever where nobody reaps the
    dead: in a container without an init process. The workers of a killed driver would go on
    training beside those of the driver that continues the run.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _load(path: str) -> Callable[[Any, dict[str, Any]], Result]:
    module, function = path.split(":")
    return cast(Callable[[Any, dict[str, Any]], Result], getattr(_import(module), function))


def _import(module: str) -> Any:
    return importlib.import_module(module)


def _device(accelerated: bool) -> Any:
    import torch

    if not accelerated:
        return torch.device("cpu")
    from ray.train.torch import get_device

    return get_device()
