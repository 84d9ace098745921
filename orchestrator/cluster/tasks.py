"""A pool of Ray tasks: plain functions over plain values, a bounded number at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import ray

from orchestrator.cluster.observe.progress import Progress
from orchestrator.config import ClusterSection
from orchestrator.errors import OrchestratorError, StageError

Result = TypeVar("Result")
Value = TypeVar("Value")


class TaskPool:
    """Runs functions as Ray tasks, ``cluster.workers`` at a time.

    ``ray.util.ActorPool`` and ``multiprocessing`` on Ray hold processes and know neither retries
    after a lost worker nor the library's own errors.

    Args:
        cluster: Number of tasks at a time, CPUs and GPUs per task, and retries of a task.
    """

    def __init__(self, cluster: ClusterSection) -> None:
        self._limit = cluster.workers
        self._options = {
            "num_cpus": cluster.cpus_per_worker,
            "num_gpus": cluster.gpus_per_worker,
            "max_retries": cluster.max_failures,
            "label_selector": cluster.labels,
        }

    def put(self, value: Value) -> Value:
        """Store a value that many calls read; calls receive the value itself."""
        return cast(Value, ray.put(value))

    def map(
        self,
        function: Callable[..., Result],
        items: Mapping[str, Sequence[Any]],
        title: str = "",
        unit: str = "call",
    ) -> Iterator[tuple[str, Result]]:
        """Yield (name, result) as calls end.

        Args:
            function: Function of a module.
            items: Arguments of each call by name.
            title: Title of the progress line; empty: no progress is shown.
            unit: Name of a call in the progress line.

        Raises:
            OrchestratorError: As raised by a call; StageError if its process died too often.
        """
        remote = ray.remote(function).options(name=function.__name__, **self._options)
        waiting, running = list(items.items()), dict[Any, str]()
        with Progress(title, len(items), unit) as progress:
            try:
                while waiting or running:
                    while waiting and len(running) < self._limit:
                        name, arguments = waiting.pop(0)
                        running[remote.remote(*arguments)] = name
                    done, _ = ray.wait(list(running), num_returns=1)
                    name = running.pop(done[0])
                    yield name, _value(done[0])
                    if title:
                        progress.update(progress.done + 1, name)
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run one call while nothing else of this pool runs, and return its result."""
        return next(iter(self.map(function, {"call": arguments})))[1]


def _value(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OrchestratorError):
            raise error.cause from None
        raise StageError(f"a measurement failed: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        raise StageError(
            f"a measuring process died ({type(error).__name__}: {error}); start the same command "
            "again to continue, with fewer cluster.workers if memory is short"
        ) from error
