"""The pieces of a corpus through Ray Data: as many at once as there are workers, on any node.

Ray Data streams the rows (which are small: names and numbers), places the tasks, and repeats those
whose worker or node is lost. What a task makes it writes to the shared folder, so only counts come
back. A task that is repeated finds its shard finished, or makes it again with the same bytes.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ray.data
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from orchestrator import errors
from orchestrator.data.sharded.mapping import Mapper, Row, Task
from orchestrator.errors import OrchestratorError, StageError

QUIET = ("ray.data", "ray.data._internal")


def through_ray(workers: int, cpus: float = 1.0, retries: int = 3) -> Mapper:
    """Return a mapper that works on ``workers`` rows at a time.

    Args:
        workers: number of tasks at once.
        cpus: cores of each.
        retries: how often a task whose process died is started again.
    """

    def run(task: Task, rows: Sequence[Row]) -> Iterator[Row]:
        if not rows:
            return
        results = _mapped(task, rows, workers, cpus, retries)
        try:
            for each in results.iter_rows():
                yield _result(each["result"])
        except RayError as error:
            raise StageError(
                f"a worker failed while it made a corpus: {_last_line(error)}. What is finished is "
                "kept; start the same command again to continue."
            ) from error

    return run


def _mapped(
    task: Task, rows: Sequence[Row], workers: int, cpus: float, retries: int
) -> ray.data.Dataset:
    """Return the results as a data set that is computed while it is read."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    items = [{"row": json.dumps(row)} for row in rows]
    with warnings.catch_warnings():
        # `max_retries` has no other way in; without it a task that kills its process never ends.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_items(items, override_num_blocks=len(items)).map(
            _work,
            fn_kwargs={"task": task, "threads": max(1, int(cpus))},
            num_cpus=cpus,
            compute=ray.data.TaskPoolStrategy(size=min(workers, len(items))),
            max_retries=retries,
        )


def _work(item: dict[str, Any], task: Task, threads: int) -> dict[str, str]:
    """Do one row in a worker. What users should read travels as a message, not as a traceback."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # not a thread for each core
    try:
        return {"result": json.dumps(task(json.loads(item["row"])))}
    except OrchestratorError as error:
        return {"result": json.dumps({"failed": type(error).__name__, "message": str(error)})}


def _result(text: str) -> Row:
    found: Row = json.loads(text)
    if "failed" in found:
        kind = getattr(errors, found["failed"], StageError)
        plain = issubclass(kind, OrchestratorError) and kind is not errors.ConfigError
        raise (kind if plain else StageError)(found["message"])
    return found


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].rstrip(".") if lines else type(error).__name__
