"""A watchdog over all phases of a worker: building, steps, what lies between, evaluation, saving.

Ray notices dead workers by itself, within seconds; a stopped process, a stuck disk or a cut network
keeps the others in a collective until the process group's own timeout, five minutes. The watchdog
of a rank that waits ends that rank, which Ray does notice: the group starts again from the last
checkpoint.

How long a healthy phase takes nobody knows beforehand. What counts is therefore the time without
progress: long phases call :func:`beat` with every batch that is evaluated, every tensor that is
read, and every second in which all ranks have met while one of them works.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from orchestrator.training.events import BUILDING

Item = TypeVar("Item")

STEP = "a step"
BETWEEN = "the work between two steps"
EVALUATION = "an evaluation"
CHECKPOINT = "a checkpoint"
STORING = "storing weights"
LEARNED = (STEP, BETWEEN, EVALUATION, CHECKPOINT)
"""Phases that do the same again and again, so that their own times say what is usual."""
PHASES = (*LEARNED, STORING, BUILDING)

FACTOR = 20.0
"""Progress may take this many times as long as it usually does."""
FIRST_S = 600.0
"""The first step of a start may take this long: kernels are compiled, connections are made, and
nobody knows yet how long a step takes. A shorter limit would end every attempt in the same way.
The same holds for the first evaluation and checkpoint, and for phases that are not `LEARNED`."""
REMEMBERED = 50
"""Number of last times that decide what is usual."""
LOOKS_PER_LIMIT = 20

_watching: list["Watchdog"] = []
"""Those of this process: one, where a stage runs."""


class Watchdog:
    """Calls somebody when a phase makes no progress for far too long.

    Args:
        on_hang: Called once, from another thread, with the phase and the seconds without progress.
        floor_s: Nothing is too long before so many seconds.
        first_s: The same where nobody knows yet how long it takes.
    """

    def __init__(
        self, on_hang: Callable[[str, float], None], floor_s: float, first_s: float = FIRST_S
    ) -> None:
        self.on_hang, self.floor_s, self.first_s = on_hang, floor_s, first_s
        self._took = {name: deque[float](maxlen=REMEMBERED) for name in PHASES}
        self._known = set[str]()
        """Phases that have ended once. A beat alone says nothing yet: the work after the first one
        of an evaluation is a pass that compiles."""
        self._now: tuple[str, float] | None = None
        """The phase, and the time of its last progress; None: nothing is watched."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        _watching.append(self)

    def limit_s(self, phase: str) -> float:
        """Return the seconds without progress after which a phase counts as hung.

        The median of earlier steps is what is usual. The parts of other phases differ (a state is
        copied, then ranks meet every second): there the longest one is.
        """
        if phase not in self._known or phase not in LEARNED:
            return max(self.floor_s, self.first_s)
        took = list(self._took[phase])
        usual = statistics.median(took) if phase == STEP else max(took)
        return max(self.floor_s, FACTOR * usual)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch a phase; one within another one takes its place for the time.

        Args:
            name: One of `PHASES`.
        """
        outer = self._now
        self._now = (name, time.monotonic())
        try:
            yield
            self.beat()
            self._known.add(name)
        finally:
            self._now = None if outer is None else (outer[0], time.monotonic())

    def beat(self) -> None:
        """Take note of progress in the phase that is watched."""
        if self._now is not None:
            name, last = self._now
            now = time.monotonic()
            self._took[name].append(now - last)
            self._now = (name, now)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Watch nothing within the block."""
        outer, self._now = self._now, None
        try:
            yield
        finally:
            self._now = None if outer is None else (outer[0], time.monotonic())

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self in _watching:
            _watching.remove(self)

    def _watch(self) -> None:
        while not self._closed.wait(min(self.floor_s, self.first_s) / LOOKS_PER_LIMIT):
            watched = self._now
            if watched is None:
                continue
            name, last = watched
            seconds = time.monotonic() - last
            if seconds > self.limit_s(name) and self._now is watched:
                self.on_hang(name, seconds)
                return


def beat() -> None:
    """Say, on the thread that a watchdog watches, that the work of a long phase moves on."""
    for each in tuple(_watching):
        each.beat()


def beating(items: Iterable[Item]) -> Iterator[Item]:
    """Yield some items, and beat with each."""
    for each in items:
        beat()
        yield each


@contextmanager
def unwatched() -> Iterator[None]:
    """Hold the watchdogs for work that may take any time and shows no progress."""
    watchdogs = tuple(_watching)
    if not watchdogs:
        yield
        return
    with watchdogs[-1].paused():
        yield


@contextmanager
def phase_of(watchdog: Watchdog | None, name: str) -> Iterator[None]:
    """Watch a phase, where there is a watchdog."""
    if watchdog is None:
        yield
        return
    with watchdog.phase(name):
        yield
