"""Waiting for one rank, however long its work takes.

A collective waits for a late rank only as long as the process group's timeout allows: minutes.
Hashing a large checkpoint takes longer. While one rank works in a thread, all of them therefore
meet in a short collective every second, and none is late.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from orchestrator.training.worker_context import WorkerContext

Found = TypeVar("Found")

BEAT_S = 1.0
"""Seconds between two such collectives."""


def join_all(thread: threading.Thread, group: WorkerContext) -> None:
    """Wait until this thread of every rank has ended; collective."""
    thread.join(BEAT_S)
    while not group.all_ranks(not thread.is_alive()):
        thread.join(BEAT_S)


def on_rank_zero(action: Callable[[], Found], group: WorkerContext) -> Found | None:
    """Run something on rank 0 while the others wait; collective.

    Returns:
        What it returned, on rank 0; None on the others.

    Raises:
        Exception: Whatever it raised, on rank 0 alone.
    """
    if group.world == 1:
        return action()
    outcome: Future[Found | None] = Future()

    def run() -> None:
        try:
            outcome.set_result(action() if group.rank == 0 else None)
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="rank-zero", daemon=True)
    thread.start()
    join_all(thread, group)
    return outcome.result()
