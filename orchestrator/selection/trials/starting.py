"""Seconds that a process of trials spends before its first useful work."""

import time


class StartClock:
    """Tells start-up from work; one per process, made when it gets its first trial."""

    def __init__(self) -> None:
        self._uncounted_since: float | None = time.perf_counter()

    def seconds(self, asked_at: float) -> float:
        """Return the seconds of start-up before now, for the work that is about to begin.

        Args:
            asked_at: ``time.perf_counter()`` when the trial was asked for its next result.

        Returns:
            The first time all seconds since the process began to work for trials, imports
            included; later those since ``asked_at``.
        """
        begin = asked_at if self._uncounted_since is None else self._uncounted_since
        self._uncounted_since = None
        return time.perf_counter() - begin


clock = StartClock()
