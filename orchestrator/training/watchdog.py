"""Notice a step that never ends: a peer that hangs without dying leaves everybody in a collective.

Ray notices dead workers by itself, within seconds; a stopped process, a stuck disk or a cut network
keeps the others waiting until the process group's own timeout, half an hour. The watchdog of a rank
that waits ends that rank, which Ray does notice: the group starts again from the last checkpoint.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FACTOR = 20.0
"""A step may take this many times the median of those before it."""
REMEMBERED = 50
"""Number of last steps whose median is the usual time of a step."""
LOOKS_PER_LIMIT = 20


class Watchdog:
    """Calls somebody when a step takes far too long.

    Args:
        on_hang: Called once, from another thread, with the seconds that the step has taken.
        floor_s: No step is too long before so many seconds; also the limit of the first steps.
    """

    def __init__(self, on_hang: Callable[[float], None], floor_s: float) -> None:
        self.on_hang, self.floor_s = on_hang, floor_s
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._began: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @property
    def limit_s(self) -> float:
        """Seconds after which a step counts as hung."""
        usual = statistics.median(self._took) if self._took else 0.0
        return max(self.floor_s, FACTOR * usual)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch one step; what happens between steps (evaluation, checkpoints) is not watched."""
        began = self._began = time.monotonic()
        try:
            yield
            self._took.append(time.monotonic() - began)
        finally:
            self._began = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self.floor_s / LOOKS_PER_LIMIT):
            began = self._began
            if began is not None and time.monotonic() - began > self.limit_s:
                self.on_hang(time.monotonic() - began)
                return
