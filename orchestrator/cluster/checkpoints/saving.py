"""One checkpoint on its way to the disk: one thread per rank, parts, descriptions, one commit.

Rank 0 makes the temporary folder when there is room for the checkpoint. Every rank writes its part
into it, hashes it while it writes, brings it to the disk, and leaves a description of it
(``.written-<rank>``: a `RankPart` as JSON, under its name only when it is complete). Rank 0 waits
for all descriptions, removes them, writes what follows from them and commits; it reads back no
file. A committed checkpoint, ``step-<step>/``, holds:

- ``training-<rank>.safetensors`` of every rank (of one process: ``training.safetensors``), and
  what else a rank described;
- ``training.json``, the index: which file holds which elements (`StateIndex`);
- ``extra.json``, the state of the caller and a copy of the manifest's head;
- ``manifest.json``, written last: schema version, step, number of ranks, and for every other file
  size and SHA-256 as its writer measured them. A folder without it is not a checkpoint.

A file that a rank described never changes afterwards. Nothing but the descriptions crosses ranks,
so an object store does the same: each rank stores its files and its description, rank 0 collects
the descriptions and stores index, extra and at last the manifest (`meetings`).

Writing that fails for want of space is tried again after a while: training goes on meanwhile, and
somebody may make room.

A collective waits for a late rank only as long as the process group's timeout allows: minutes.
Writing or hashing a large checkpoint takes longer. While one rank works in a thread, all of them
therefore meet in a short collective every second, and none is late.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.cluster.checkpoints.meetings import Meeting
from orchestrator.errors import StageError
from orchestrator.storage.claims import FencedError
from orchestrator.storage.disk_failures import (
    UnreachableError,
    explained,
    is_full,
    require_space,
    system_error,
)
from orchestrator.training.engines.state_index import RankPart
from orchestrator.training.events import NoSpace
from orchestrator.training.watchdog import beat, unwatched
from orchestrator.training.worker_context import WorkerContext

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

BEAT_S = 1.0
"""Seconds between two collectives of ranks that wait for one."""
RETRY_AFTER_S = (2.0, 8.0, 20.0)
"""Pauses before another try when there is no space."""


@dataclass(frozen=True, slots=True)
class Part:
    """Work of one rank for a checkpoint.

    Attributes:
        step: Optimizer steps done.
        meeting: Where the ranks bring their parts together.
        final: Where the checkpoint will be.
        needed_bytes: Space that the checkpoint may take, for rank 0's check; 0: nobody knows.
        write: Writes this rank's part into a folder and describes it; may be called again.
        commit: Makes the checkpoint visible, given the descriptions of all ranks; only rank 0's
            is called.
    """

    step: int
    meeting: Meeting
    final: Path
    needed_bytes: int
    write: Callable[[Path], RankPart]
    commit: Callable[[Sequence[RankPart]], None]


class Pending:
    """A checkpoint that is being written in a thread of its own.

    Args:
        part: What this rank does.
        ranks: The group; asked for nothing collective before :meth:`settle`.
    """

    def __init__(self, part: Part, ranks: WorkerContext) -> None:
        self.final = part.final
        self._part, self._ranks = part, ranks
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._guarded, name="checkpoint", daemon=True)
        self._thread.start()

    def settle(self, group: WorkerContext) -> None:
        """Wait until all ranks have written and rank 0 has committed; collective.

        Raises:
            FencedError: A newer group writes this run's checkpoints (on every rank).
            StageError: Some rank could not write (on every rank; the old checkpoints stay).
        """
        join_all(self._thread, group)
        meeting = self._part.meeting
        if group.all_ranks(self._failed is None):
            meeting.settle()
            return
        meeting.discard()
        self._require_claim(group)
        raise StageError(
            f"the checkpoint of step {self._part.step} could not be written to "
            f"{meeting.where} ({self._failed or 'another worker failed'}). Earlier "
            "checkpoints are intact: start the same command again when the cause is gone."
        ) from self._failed

    def _require_claim(self, group: WorkerContext) -> None:
        """Raise where a newer group is the reason; a store that fails says nothing of that."""
        if isinstance(self._failed, UnreachableError):
            return
        try:
            group.require_claim()
        except FencedError:
            raise
        except StageError as error:
            logger.debug("the claim cannot be read either: %s", error)

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - of many kinds; raised where it is settled
            self._failed = error
            self._part.meeting.fail()

    def _run(self) -> None:
        part, ranks, meeting = self._part, self._ranks, self._part.meeting
        self._wait_for(lambda: meeting.is_open(ranks.rank), "rank 0 made no folder")
        self._patiently(self._write)
        if ranks.rank == 0:
            late = "some rank did not write"
            parts = self._wait_for(lambda: meeting.delivered(ranks.world), late)
            self._patiently(lambda: part.commit(parts))

    def _write(self) -> None:
        part, staged = self._part, self._part.meeting.staged
        with explained(part.final, part.needed_bytes or None):
            if self._ranks.rank == 0:
                require_space(part.final, part.needed_bytes)
            staged.mkdir(parents=True, exist_ok=True)
            try:
                written = part.write(staged)
            except Exception as error:
                known = system_error(error)
                if known is None:
                    raise
                raise known from error
            part.meeting.deliver(written)

    def _patiently(self, action: Callable[[], None]) -> None:
        """Do something; again after a while when there was no space."""
        for pause in RETRY_AFTER_S:
            try:
                return action()
            except StageError as error:
                if not is_full(error.__cause__) or _too_large(error.__cause__):
                    raise
                message = f"checkpoint of step {self._part.step}: {error} Next try in {pause:g} s"
                logger.warning(message)
                self._ranks.emit(NoSpace(message=message))
                time.sleep(pause)
        return action()

    def _wait_for(self, look: Callable[[], Found], otherwise: str) -> Found:
        """Wait for what other ranks do; return it when it is something.

        Raises:
            StageError: It has not happened within the deadline, or some rank failed.
        """
        meeting = self._part.meeting
        deadline = time.monotonic() + meeting.deadline_s
        while not (found := look()):
            if meeting.has_failed():
                raise StageError("another worker failed")
            if time.monotonic() > deadline:
                raise StageError(f"{otherwise} within {meeting.deadline_s:.0f} s")
            time.sleep(meeting.poll_s)
        return found


def _too_large(error: BaseException | None) -> bool:
    """Return whether a file was larger than this process may write: waiting does not help."""
    return isinstance(error, OSError) and error.errno == errno.EFBIG


def join_all(thread: threading.Thread, group: WorkerContext) -> None:
    """Wait until this thread of every rank has ended; collective."""
    thread.join(BEAT_S)
    while not group.all_ranks(not thread.is_alive()):
        beat()  # all ranks are here
        thread.join(BEAT_S)


def on_rank_zero(action: Callable[[], Found], group: WorkerContext) -> Found | None:
    """Run something on rank 0 while the others wait; collective.

    Returns:
        What it returned, on rank 0; None on the others.

    Raises:
        Exception: Whatever it raised, on rank 0 alone.
    """
    return on_every_rank(lambda: action() if group.rank == 0 else None, group)


def on_every_rank(action: Callable[[], Found], group: WorkerContext) -> Found:
    """Run something on each rank, however long it takes on some of them; collective.

    Returns:
        What it returned on this rank.

    Raises:
        Exception: Whatever it raised on this rank.
    """
    if group.world == 1:
        with unwatched():
            return action()
    outcome: Future[Found] = Future()

    def run() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="every-rank", daemon=True)
    thread.start()
    join_all(thread, group)
    return outcome.result()
