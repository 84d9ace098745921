"""Prefetch: while a step trains, a thread makes the next batches.

Decoding pictures and computing spectrograms take time that the device would wait. A window is a
function of (step, rank, world) alone, so making it earlier changes nothing in it.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from orchestrator.arrays import IntArray
from orchestrator.data.samples.base import Batch

STOP_S = 30.0
"""Longest wait for the window that is being made when nobody wants it any more."""
logger = logging.getLogger(__name__)
Ask = tuple[int, int, int]
"""Step, rank, world."""


class Source(Protocol):
    """Source of micro-batches, as ``StepSource`` is."""

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Return the micro-batches of a step for one rank."""
        ...

    def epoch(self, step: int) -> float:
        """Return the epoch in which a step begins."""
        ...

    def indices(self, step: int) -> tuple[IntArray, IntArray]:
        """Return sample and epoch of each place in the global batch of a step."""
        ...


class _Failure:
    """An exception on its way from the thread to whoever asks for the window."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


Made = tuple[Ask, list[Batch] | _Failure]


class Prefetch:
    """A source that makes the windows after the one that was asked for.

    Args:
        source: Makes windows; asked by one thread at a time.
        depth: Windows that are made ahead, 1 or more.
    """

    def __init__(self, source: Source, depth: int) -> None:
        self._source, self._depth = source, depth
        self._one_at_a_time = threading.Lock()
        self._maker: _Maker | None = None

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Return the micro-batches of a step, made ahead if it is the one after the last.

        Raises:
            Exception: Whatever making it raised.
        """
        ask = (step, rank, world)
        if self._maker is None or self._maker.next != ask:
            self.close()
            self._maker = _Maker(self._make, ask, self._depth)
        return self._maker.take()

    def _make(self, ask: Ask) -> list[Batch]:
        with self._one_at_a_time:
            return self._source.window(*ask)

    def epoch(self, step: int) -> float:
        """Return the epoch in which a step begins."""
        return self._source.epoch(step)

    def indices(self, step: int) -> tuple[IntArray, IntArray]:
        """Return sample and epoch of each place in the global batch of a step."""
        with self._one_at_a_time:
            return self._source.indices(step)

    def close(self) -> None:
        """End the thread; another window starts it again."""
        if self._maker is not None:
            self._maker.stop()
            self._maker = None


class _Maker:
    """A thread that makes one window after the other, ``depth`` ahead of the reader."""

    def __init__(self, make: Callable[[Ask], list[Batch]], first: Ask, depth: int) -> None:
        self.next: Ask | None = first
        self._make = make
        self._made: SimpleQueue[Made] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(first,), name="prefetch", daemon=True
        )
        self._thread.start()

    def take(self) -> list[Batch]:
        """Return the next window."""
        ask, made = self._made.get()
        self._room.release()
        if isinstance(made, _Failure):
            self.next = None  # whoever asks again gets a new thread
            raise made.error
        self.next = (ask[0] + 1, *ask[1:])
        return made

    def stop(self) -> None:
        """End the thread and wait for it, but not for a source that hangs: it ends with us."""
        self._stopped.set()
        self._room.release()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            logger.warning("event=prefetch_left reading_for_more_than_s=%g", STOP_S)

    def _run(self, ask: Ask) -> None:
        while True:
            self._room.acquire()
            if self._stopped.is_set():
                return
            try:
                made: list[Batch] | _Failure = self._make(ask)
            except BaseException as error:  # noqa: BLE001 - handed over and raised there
                made = _Failure(error)
            self._made.put((ask, made))
            if isinstance(made, _Failure):
                return
            ask = (ask[0] + 1, *ask[1:])
