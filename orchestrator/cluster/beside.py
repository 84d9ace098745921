"""Work beside the workers of a launch: a Ray task on resources that no worker has.

Ray Train's asynchronous validation is for checkpoints that Ray stores: its task waits for room, on
a full cluster until training has ended, and its figures go to Ray's results. Ours commits its own
checkpoints, looks for room first, and a run's curves are its own.
"""

from pathlib import Path
from typing import Any, TypeVar

from orchestrator.cluster.processes import class_path, load_named, prepare_process
from orchestrator.cluster.room import free_places
from orchestrator.cluster.session import ask_for
from orchestrator.config import ClusterSection, StrictModel
from orchestrator.errors import StageError

Result = TypeVar("Result", bound=StrictModel)


class RayBeside:
    """Starts functions beside the workers; see `training.worker_context.Beside`."""

    def has_place(self, cluster: ClusterSection) -> bool:
        """Return whether the cluster has free what one more worker takes."""
        return any(free_places(ask_for(cluster, 1, "one more worker")).values())

    def start(self, function: str, payload: StrictModel, cluster: ClusterSection) -> "RayErrand":
        """Start a function of one payload with the resources of one worker.

        Args:
            function: ``module:function``; returns a strict model.
            payload: Its input; travels as JSON.
            cluster: Resources and labels of a worker.
        """
        import ray

        task = ray.remote(_call).options(
            name=f"beside: {Path(function).name}",
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.gpus_per_worker,
            label_selector=cluster.labels or None,
            max_retries=0,
            scheduling_strategy="SPREAD",  # outside the placement group of the workers
        )
        threads = max(1, int(cluster.cpus_per_worker))
        given = (function, class_path(payload), payload.model_dump_json(), threads)
        return RayErrand(task.remote(*given, accelerated=cluster.gpus_per_worker > 0))


class RayErrand:
    """A started function; see `training.worker_context.Errand`.

    Args:
        reference: Of the task's result.
    """

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def ended(self, wait_s: float = 0.0) -> bool:
        """Return whether it ended, at the latest after a time."""
        import ray

        return bool(ray.wait([self._reference], timeout=wait_s)[0])

    def result(self, kind: type[Result]) -> Result:
        """Return what the function returned.

        Raises:
            StageError: It failed, or its process or node was lost.
        """
        import ray

        try:
            return kind.model_validate_json(ray.get(self._reference))
        except ray.exceptions.RayTaskError as error:
            raise StageError(f"{type(error.cause).__name__}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise StageError(f"{type(error).__name__}: {reason}") from error

    def cancel(self) -> None:
        """End it; nobody waits for its result."""
        import ray

        ray.cancel(self._reference, force=True)


def _call(function: str, kind: str, payload: str, threads: int, *, accelerated: bool) -> str:
    prepare_process(accelerated=accelerated)
    import torch

    torch.set_num_threads(threads)
    result: StrictModel = load_named(function)(load_named(kind).model_validate_json(payload))
    return result.model_dump_json()
