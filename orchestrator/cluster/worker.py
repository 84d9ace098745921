"""Body of every Ray Train worker: prepare the process, call the stage, report.

Failures are told to the driver before they are raised, because Ray Train would start the whole
worker group again for an error that can only repeat. When one rank ends with such an error, its
process group is closed, which ends the collective that the other ranks wait in.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.drains import DrainedError, drain_notice
from orchestrator.cluster.observe.mailbox import RayLine, describe_error, living_nodes
from orchestrator.cluster.preload import take
from orchestrator.cluster.processes import load_named, prepare_process
from orchestrator.config.strict import StrictModel
from orchestrator.errors import OrchestratorError
from orchestrator.storage.claims import FencedError
from orchestrator.training.events import GroupStarted

if TYPE_CHECKING:
    from orchestrator.cluster.context import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Task of a worker, the same for all workers of a launch.

    Attributes:
        worker: The stage's function, ``module:function``.
        payload_class: Class of its payload, ``module:Class``.
        payload: The payload as JSON.
        run_dir: The run's folder, on storage that all workers share.
        mailbox: Handle of the :class:`~orchestrator.cluster.observe.mailbox.Mailbox` actor.
        threads: Threads of torch.
        accelerated: Whether workers have GPUs.
    """

    worker: str
    payload_class: str
    payload: str
    run_dir: Path
    mailbox: Any
    threads: int
    accelerated: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """Outcome of a worker.

    Attributes:
        result: Rank 0's result as JSON; None on the other ranks, and when the worker gave up
            (the mailbox holds the reason).
    """

    result: str | None


def train_loop(config: dict[str, Assignment]) -> Ended:
    """Run one worker function on one rank.

    Args:
        config: The ``assignment``; Ray Train hands over dicts only.
    """
    assignment = config["assignment"]
    prepare_process(accelerated=assignment.accelerated)
    take()
    import ray
    import torch

    from orchestrator.cluster.beside import RayBeside
    from orchestrator.cluster.context import Worker

    torch.set_num_threads(assignment.threads)
    mailbox = assignment.mailbox
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    device = _device(assignment.accelerated)
    line = RayLine(mailbox)
    context = Worker(rank, world, assignment.run_dir, device, line, RayBeside())
    try:
        given_up = rank == 0 and ray.get(mailbox.begin.remote(living_nodes())) is not None
        if context.broadcast_from_rank_zero(int(given_up)):
            return Ended(None)
        mailbox.joined.remote(ray.get_runtime_context().get_node_id())
        context.emit(GroupStarted(world=world))
        payload = load_named(assignment.payload_class).model_validate_json(assignment.payload)
        result: StrictModel = load_named(assignment.worker)(context, payload)
        context.barrier()  # the controller ends the group as soon as one rank fails to
        if context.broadcast_from_rank_zero(int(rank == 0 and _leaves(context, result, mailbox))):
            raise DrainedError("a node of the worker group is draining")
        return Ended(result.model_dump_json() if rank == 0 else None)
    except (FencedError, DrainedError) as error:  # neither ends the launch
        logger.warning("rank %d: %s", rank, error)
        raise
    except OrchestratorError as error:
        ray.get(mailbox.fail.remote(describe_error(error), final=True))
        # The other ranks would wait for this one in a collective until its timeout.
        torch.distributed.destroy_process_group()
        return Ended(None)
    except Exception as error:
        if ray.get(mailbox.is_final.remote()):  # another rank gave up and took the group along
            return Ended(None)
        ray.get(mailbox.fail.remote(describe_error(error), final=False))
        raise


def _leaves(context: "Worker", result: StrictModel, mailbox: Any) -> bool:
    """Return whether the group ends here to go on on other nodes, and say so to the driver.

    A result that is not ``stopped`` is finished: there is nothing left to go on with.
    """
    import ray

    notice = drain_notice()
    if notice is None or not getattr(result, "stopped", False):
        return False
    if not ray.get(mailbox.leave.remote()):
        return False
    context.emit(notice)
    return True


def _device(accelerated: bool) -> Any:
    import torch

    if not accelerated:
        return torch.device("cpu")
    from ray.train.torch import get_device

    return get_device()
