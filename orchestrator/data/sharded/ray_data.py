"""A mapper on Ray Data: as many tasks at once as there are workers, on any node.

Ray Data streams the inputs (which are small: names and numbers), places the tasks, and repeats
those whose worker or node is lost. Shards are written to the shared folder, so only counts come
back. A repeated task finds its shard finished, or builds it again with the same bytes.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import ray.data
from pydantic import TypeAdapter
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from orchestrator import errors
from orchestrator.config import StrictModel
from orchestrator.data.sharded.contracts import (
    BuiltShard,
    Input,
    Mapper,
    PieceCounts,
    PieceTask,
    Result,
    ShardTask,
)
from orchestrator.errors import OrchestratorError, StageError

QUIET = ("ray.data", "ray.data._internal")


class Failure(StrictModel):
    """An error that the user should read; it travels as a message, not as a traceback."""

    failed: str
    """Name of its class."""
    message: str


INPUTS: TypeAdapter[PieceTask | ShardTask] = TypeAdapter(PieceTask | ShardTask)
ANSWERS: TypeAdapter[PieceCounts | BuiltShard | Failure] = TypeAdapter(
    PieceCounts | BuiltShard | Failure
)


def through_ray(
    workers: int, cpus: float = 1.0, retries: int = 3, labels: Mapping[str, str] | None = None
) -> Mapper:
    """Return a mapper that runs ``workers`` tasks at a time.

    Args:
        workers: Number of concurrent tasks.
        cpus: Cores per task.
        retries: Number of times a task is restarted after its process died.
        labels: Labels of the nodes that tasks run on.
    """
    options = {"num_cpus": cpus, "max_retries": retries, "label_selector": dict(labels or {})}

    def run(task: Callable[[Input], Result], inputs: Sequence[Input]) -> Iterator[Result]:
        if not inputs:
            return
        results = _mapped(task, inputs, workers, options)
        try:
            for each in results.iter_rows():
                yield cast(Result, _result(each["result"]))
        except RayError as error:
            raise StageError(
                f"a worker failed while it built a corpus: {_last_line(error)}. Finished shards "
                "stay; start the same command again to continue."
            ) from error

    return run


def _mapped(
    task: Callable[[Input], Result],
    inputs: Sequence[Input],
    workers: int,
    options: Mapping[str, Any],
) -> ray.data.Dataset:
    """Return the results as a data set that is computed while it is read."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    items = [{"input": each.model_dump_json()} for each in inputs]
    with warnings.catch_warnings():
        # `max_retries` has no other interface; without it, Ray Data repeats a task that kills its
        # own process without end.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_items(items, override_num_blocks=len(items)).map(
            _work,
            fn_kwargs={"task": task, "threads": max(1, int(options["num_cpus"]))},
            compute=ray.data.TaskPoolStrategy(size=min(workers, len(items))),
            **options,
        )


def _work(item: dict[str, str], task: Callable[[Input], Result], threads: int) -> dict[str, str]:
    """Run one task in a worker."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # its default is one per core
    answer: StrictModel
    try:
        answer = task(cast(Input, INPUTS.validate_json(item["input"])))
    except OrchestratorError as error:
        answer = Failure(failed=type(error).__name__, message=str(error))
    return {"result": answer.model_dump_json()}


def _result(text: str) -> PieceCounts | BuiltShard:
    answer = ANSWERS.validate_json(text)
    if isinstance(answer, Failure):
        kind = getattr(errors, answer.failed, StageError)
        plain = issubclass(kind, OrchestratorError) and kind is not errors.ConfigError
        raise (kind if plain else StageError)(answer.message)
    return answer


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].rstrip(".") if lines else type(error).__name__
