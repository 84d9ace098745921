"""Prefetch: while a step trains, a thread makes the next batches.

Tokenizing, reading from a shared file system, decoding pictures and computing spectrograms take
time that the device would wait. A window is a function of (step, rank, world) alone, so making it
earlier changes nothing in it.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeVar

from orchestrator.arrays import IntArray

if TYPE_CHECKING:
    from orchestrator.data.samples.base import Batch

DEPTH = 2
"""Items that are made ahead unless a number is given."""
STOP_S = 30.0
"""Longest wait for the item that is being made when nobody wants it any more."""
logger = logging.getLogger(__name__)
Item = TypeVar("Item")


class Source(Protocol):
    """Source of micro-batches, as ``StepSource`` is."""

    def window(self, step: int, rank: int, world: int) -> list["Batch"]:
        """Return the micro-batches of a step for one rank."""
        ...

    def epoch(self, step: int) -> float:
        """Return the epoch in which a step begins."""
        ...


class IndexedSource(Source, Protocol):
    """A source that knows the samples of a step."""

    def indices(self, step: int) -> tuple[IntArray, IntArray]:
        """Return sample and epoch of each place in the global batch of a step."""
        ...


class _Failure:
    """An exception on its way from the thread to the reader."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Ahead(AbstractContextManager["Ahead[Item]"], Iterator[Item]):
    """An iterator whose items a thread makes ahead of the reader, in the same order.

    What making an item raises is raised where that item would have come. Use it as a context, or
    close it when done: the thread waits for room otherwise.

    Args:
        items: Asked by the thread alone.
        depth: Items that are made ahead, 1 or more.
    """

    def __init__(self, items: Iterator[Item], depth: int = DEPTH) -> None:
        self._items, self._ended = items, False
        self._made: SimpleQueue[Item | _Failure] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        """Return the next item."""
        if self._ended:
            raise StopIteration
        made = self._made.get()
        self._room.release()
        if isinstance(made, _Failure):
            self._ended = True
            raise made.error  # also the StopIteration of the items
        return made

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the thread and wait for it, but not for items that hang: it ends with us."""
        self._ended = True
        self._stopped.set()
        self._room.release()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            logger.warning("event=prefetch_left reading_for_more_than_s=%g", STOP_S)

    def _run(self) -> None:
        while True:
            self._room.acquire()
            if self._stopped.is_set():
                return
            try:
                made: Item | _Failure = next(self._items)
            except BaseException as error:  # noqa: BLE001 - handed over and raised there
                made = _Failure(error)
            self._made.put(made)
            if isinstance(made, _Failure):
                return


class Prefetch(AbstractContextManager["Prefetch"]):
    """A source that makes the windows after the one that was asked for.

    Args:
        source: Makes windows; asked by one thread at a time.
        depth: Windows that are made ahead, 1 or more.
    """

    def __init__(self, source: Source, depth: int = DEPTH) -> None:
        self._source, self._depth = source, depth
        self._one_at_a_time = threading.Lock()
        self._windows: Ahead[list[Batch]] | None = None
        self._next: tuple[int, int, int] | None = None

    def window(self, step: int, rank: int, world: int) -> list["Batch"]:
        """Return the micro-batches of a step, made ahead if it is the one after the last.

        Raises:
            Exception: Whatever making it raised.
        """
        if self._windows is None or self._next != (step, rank, world):
            self.close()
            self._windows = Ahead(self._made_from(step, rank, world), self._depth)
        self._next = None  # after an error, whoever asks again gets a new thread
        made = next(self._windows)
        self._next = (step + 1, rank, world)
        return made

    def _made_from(self, first: int, rank: int, world: int) -> Iterator[list["Batch"]]:
        for step in count(first):
            with self._one_at_a_time:
                made = self._source.window(step, rank, world)
            yield made

    def epoch(self, step: int) -> float:
        """Return the epoch in which a step begins."""
        return self._source.epoch(step)

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the thread; another window starts it again."""
        if self._windows is not None:
            self._windows.close()
            self._windows = None


class IndexedPrefetch(Prefetch):
    """A prefetch of a source that knows the samples of a step."""

    def __init__(self, source: IndexedSource, depth: int = DEPTH) -> None:
        super().__init__(source, depth)
        self._indexed = source

    def indices(self, step: int) -> tuple[IntArray, IntArray]:
        """Return sample and epoch of each place in the global batch of a step."""
        with self._one_at_a_time:
            return self._indexed.indices(step)
