"""What rank 0 and the driver tell each other while a launch runs.

One small actor without a CPU of its own: events travel to the driver, the wish to stop travels
back, and failures are remembered across attempts, so that a worker group which Ray Train starts
again knows whether it makes sense to go on. It works wherever the workers are: no shared folder,
no extra port.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

Event = dict[str, Any]
STOP_POLL_S = 0.25  # how often rank 0 asks whether it should stop


class Mailbox:
    """The actor's state; plain Python, so that it can be tested without a cluster."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._failure: Event | None = None
        self._last_crash: Event | None = None
        self._progress_at_crash: dict[str, int] = {}
        self._progress: dict[str, int] = {}
        self._final = False

    def post(self, events: Sequence[Event]) -> None:
        """Add events for the driver."""
        self._events.extend(events)

    def take(self) -> list[Event]:
        """Return and forget the events posted since the last call."""
        events, self._events = self._events, []
        return events

    def request_stop(self) -> None:
        """Ask the workers to save a checkpoint and return."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether somebody asked the workers to stop."""
        return self._stop

    def progressed(self, run: str, step: int) -> None:
        """Note a run's committed checkpoint: a crash after it is worth another attempt."""
        self._progress[run] = max(self._progress.get(run, step), step)

    def fail(self, failure: Event, *, final: bool) -> None:
        """Note why a worker failed.

        Args:
            failure: ``{"error": class name, "message": ..., "traceback": ...}``.
            final: Trying again cannot help (bad input, damaged files).
        """
        if final or self._failure is None:
            self._failure = failure
        self._final = self._final or final

    def begin(self) -> Event | None:
        """Start an attempt; called once per worker group, by rank 0.

        Returns:
            None to go ahead, or the failure because of which to give up: an error that cannot go
            away, or the same kind of crash twice without a new checkpoint in between.
        """
        if self._final:
            return self._failure
        crash, self._failure = self._failure, None
        if crash is not None:
            stuck = self._last_crash is not None and self._progress == self._progress_at_crash
            if stuck:
                self._failure, self._final = self._last_crash, True
                return self._failure
            self._last_crash, self._progress_at_crash = crash, dict(self._progress)
        return None

    def failure(self) -> Event | None:
        """Return the failure that ended the launch, if one did."""
        return self._failure if self._final else None

    def is_final(self) -> bool:
        """Whether some rank hit an error that ends the launch."""
        return self._final


class Line(Protocol):
    """One end of a mailbox, as the workers use it."""

    def post(self, event: Event) -> None:
        """Send an event to the driver."""
        ...

    def progressed(self, run: str, step: int) -> None:
        """Report a run's committed checkpoint."""
        ...

    def stop_requested(self) -> bool:
        """Whether the driver asked to stop; may be a moment old."""
        ...


class SilentLine:
    """A line to nobody: for running a worker function without a cluster."""

    def post(self, event: Event) -> None:
        """Drop the event."""

    def progressed(self, run: str, step: int) -> None:
        """Drop the report."""

    def stop_requested(self) -> bool:
        """Nobody asks."""
        return False


class RayLine:
    """The workers' end of a mailbox actor. Posting never waits.

    Args:
        actor: Handle of a :class:`Mailbox` actor.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self._stop = False
        self._asked: Any = None
        self._asked_at = 0.0

    def post(self, event: Event) -> None:
        """Send an event; it is numbered by arrival, and arrives in order."""
        self.actor.post.remote([event])

    def progressed(self, run: str, step: int) -> None:
        """Report a run's committed checkpoint."""
        self.actor.progressed.remote(run, step)

    def stop_requested(self) -> bool:
        """Return the last known answer and ask again in the background."""
        import ray

        if self._asked is not None:
            ready, _ = ray.wait([self._asked], timeout=0)
            if ready:
                self._stop = self._stop or bool(ray.get(self._asked))
                self._asked = None
        elif time.monotonic() - self._asked_at > STOP_POLL_S:
            self._asked, self._asked_at = self.actor.stop_requested.remote(), time.monotonic()
        return self._stop
