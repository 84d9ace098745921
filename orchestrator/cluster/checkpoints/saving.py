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
  its size and SHA-256, as its writer has measured them. Without it there is no checkpoint.

A file that a rank described never changes afterwards. Nothing but the descriptions crosses ranks,
so a storage that is not a folder can do the same: each rank stores its files and its description,
rank 0 collects the descriptions and stores index, extra and at last the manifest.

Writing that fails for want of space is tried again after a while: training goes on meanwhile, and
somebody may make room.

A collective waits for a late rank only as long as the process group's timeout allows: minutes.
Writing or hashing a large checkpoint takes longer. While one rank works in a thread, all of them
therefore meet in a short collective every second, and none is late.
"""

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import StageError
from orchestrator.storage import atomic_write_bytes
from orchestrator.storage.disk_failures import explained, is_full, require_space, system_error
from orchestrator.training.engines.state_index import RankPart
from orchestrator.training.events import NoSpace
from orchestrator.training.worker_context import WorkerContext

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

WRITTEN = ".written-"
"""Beginning of the name of a rank's description of its part, which is complete then."""
FAILED = ".failed"
"""An empty file that says that some rank could not write its part."""
DEADLINE_S = 3600  # a part may be large and storage slow; a rank that is lost is noticed at once
BEAT_S = 1.0
"""Seconds between two collectives of ranks that wait for one."""
POLL_S = 0.02  # marks are files: a look costs one stat on the shared storage
RETRY_AFTER_S = (2.0, 8.0, 20.0)
"""Pauses before another try when there is no space."""


@dataclass(frozen=True, slots=True)
class Part:
    """Work of one rank for a checkpoint.

    Attributes:
        step: Optimizer steps done.
        staged: Where all ranks write.
        final: Where the checkpoint will be.
        needed_bytes: Space that the checkpoint may take, for rank 0's check; 0: nobody knows.
        write: Writes this rank's part into a folder and describes it; may be called again.
        commit: Makes the checkpoint visible, given the descriptions of all ranks; only rank 0's
            is called.
    """

    step: int
    staged: Path
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
        if group.all_ranks(self._failed is None):
            return
        shutil.rmtree(self._part.staged, ignore_errors=True)
        group.require_claim()
        raise StageError(
            f"the checkpoint of step {self._part.step} could not be written to "
            f"{self.final.parent} ({self._failed or 'another worker failed'}). Earlier "
            "checkpoints are intact: start the same command again when the cause is gone."
        ) from self._failed

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - of many kinds; raised where it is settled
            self._failed = error
            with suppress(OSError):  # where even this cannot be written, the others wait in vain
                self._part.staged.mkdir(parents=True, exist_ok=True)
                (self._part.staged / FAILED).touch()

    def _run(self) -> None:
        part, ranks = self._part, self._ranks
        if ranks.rank != 0:
            self._wait_until(part.staged.is_dir, "rank 0 made no folder")
        self._patiently(self._write)
        if ranks.rank == 0:
            marks = [part.staged / f"{WRITTEN}{rank}" for rank in range(ranks.world)]
            self._wait_until(lambda: all(m.exists() for m in marks), "some rank did not write")
            parts = [RankPart.model_validate_json(mark.read_bytes()) for mark in marks]
            for mark in marks:
                mark.unlink()
            self._patiently(lambda: part.commit(parts))

    def _write(self) -> None:
        part = self._part
        with explained(part.final, part.needed_bytes or None):
            if self._ranks.rank == 0:
                require_space(part.final, part.needed_bytes)
                part.staged.mkdir(parents=True, exist_ok=True)
            try:
                written = part.write(part.staged)
            except Exception as error:
                known = system_error(error)
                if known is None:
                    raise
                raise known from error
            mark = part.staged / f"{WRITTEN}{self._ranks.rank}"
            atomic_write_bytes(mark, written.model_dump_json().encode())

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

    def _wait_until(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait for what other ranks do.

        Raises:
            StageError: It has not happened within the deadline, or some rank failed.
        """
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if (self._part.staged / FAILED).exists():
                raise StageError("another worker failed")
            if time.monotonic() > deadline:
                raise StageError(f"{otherwise} within {DEADLINE_S} s")
            time.sleep(POLL_S)


def _too_large(error: BaseException | None) -> bool:
    """Return whether a file was larger than this process may write: waiting does not help."""
    return isinstance(error, OSError) and error.errno == errno.EFBIG


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
    return on_every_rank(lambda: action() if group.rank == 0 else None, group)


def on_every_rank(action: Callable[[], Found], group: WorkerContext) -> Found:
    """Run something on each rank, however long it takes on some of them; collective.

    Returns:
        What it returned on this rank.

    Raises:
        Exception: Whatever it raised on this rank.
    """
    if group.world == 1:
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
