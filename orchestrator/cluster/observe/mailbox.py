"""Messages between the workers and the driver of a running launch.

One small actor without a CPU of its own: events travel to the driver, the wish to stop travels
back, and failures are remembered across attempts, so that a worker group which Ray Train starts
again knows whether it makes sense to go on. It works wherever the workers are: no shared folder,
no extra port. Errors travel as data and are made exceptions again on the driver.
"""

import time
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from orchestrator import errors
from orchestrator.cluster.drains import seconds_left
from orchestrator.cluster.preload import imported_modules
from orchestrator.config.strict import StrictModel
from orchestrator.errors import ConfigError, OrchestratorError, Problem, StageError
from orchestrator.training.events import Event, Measurement

SHOWN_LINES = 6
"""Last lines of a traceback that a message holds."""


class Failure(StrictModel):
    """An error that a worker raised."""

    error: str
    """Name of its class."""
    message: str
    """Its text."""
    traceback: str
    """Traceback of the error."""
    source: str | None = None
    """File of a config that is wrong."""
    places: tuple[tuple[str, str], ...] = ()
    """(path, message) of each problem in it."""


def describe_error(error: BaseException) -> Failure:
    """Return an error as data."""
    failure = Failure(
        error=type(error).__name__,
        message=str(error) or type(error).__name__,
        traceback="".join(traceback.format_exception(error)),
    )
    if not isinstance(error, ConfigError):
        return failure
    places = tuple((problem.path, problem.message) for problem in error.problems)
    return failure.model_copy(update={"source": error.source, "places": places})


def rebuild_error(failure: Failure, name: str) -> OrchestratorError:
    """Return the error that :func:`describe_error` described.

    Errors of this system keep their class, and with it their exit code; any other becomes a
    ``StageError`` that ends with the place where it was raised.

    Args:
        failure: The description.
        name: Name of the launch, for the message.
    """
    if failure.source is not None:
        return ConfigError(failure.source, [Problem(*each) for each in failure.places])
    known = getattr(errors, failure.error, None)
    if isinstance(known, type) and issubclass(known, OrchestratorError):
        return known(failure.message)
    innermost = "\n".join(failure.traceback.rstrip().splitlines()[-SHOWN_LINES:])
    return StageError(
        f"{name}: a worker failed with {failure.error}: {failure.message}\n{innermost}"
    )


class Team(StrictModel):
    """The worker group that runs, for processes that may follow it."""

    environment: str
    """Runtime environment of its processes, as Ray writes it."""
    modules: tuple[str, ...]
    """Modules that rank 0 has imported, in order."""
    nodes: dict[str, int]
    """Number of its workers by node id."""


STOP_POLL_S = 0.25  # how often rank 0 asks whether it should stop


class Mailbox:
    """The actor's state; plain Python, so that it can be tested without a cluster."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._failure: Failure | None = None
        self._nodes = Counter[str]()  # of the workers of the group that runs
        self._process: tuple[str, tuple[str, ...]] | None = None  # of rank 0, while it does steps
        self._crashes: list[tuple[Failure, frozenset[str]]] = []
        self._failures: list[frozenset[str]] = []
        self._progress: dict[str, int] = {}
        self._final = False
        self._leaving = False  # the worker group that runs ends because of a draining node
        self._may_leave = True  # it need not wait for a place elsewhere

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
        """Return whether somebody asked the workers to stop."""
        return self._stop

    def hold(self, *, place_is_ready: bool) -> None:
        """Note whether a group that must leave a node would find ready processes elsewhere."""
        self._may_leave = place_is_ready

    def should_leave(self) -> bool:
        """Return whether a group that must leave a node gains nothing by staying for a while."""
        return self._may_leave or self._stop

    def leave(self) -> bool:
        """Note that the worker group ends to go on on other nodes; its end is not a failure.

        Returns:
            Whether it shall: not if somebody asked the workers to stop.
        """
        self._process, self._leaving = None, not self._stop
        return self._leaving

    def progressed(self, run: str, step: int) -> None:
        """Note a run's committed checkpoint: failures before it are forgotten."""
        if step > self._progress.get(run, step - 1):
            self._progress[run] = step
            self._crashes.clear()
            self._failures.clear()

    def fail(self, failure: Failure, *, final: bool) -> None:
        """Note why a worker failed.

        Args:
            failure: The error.
            final: Trying again cannot help (bad input, damaged files).
        """
        if final or self._failure is None:
            self._failure = failure
        self._final = self._final or final

    def begin(self, alive: Collection[str]) -> Failure | None:
        """Start an attempt; called once per worker group, by rank 0.

        If a node was lost, the group's crash is not evidence against the job: the other workers
        lost their connection. The loss of a node may be known only some seconds after the crash,
        so earlier crashes are judged again each time.

        Args:
            alive: Ids of the nodes there are.

        Returns:
            None to go ahead, or the failure that makes further attempts pointless: a permanent
            error, or the first of two crashes without a new checkpoint in between.
        """
        if self._final:
            return self._failure
        if self._failure is not None:
            self._crashes.append((self._failure, frozenset(self._nodes)))
        self._failure = None
        self._leaving = False
        self._process = None
        self._nodes.clear()
        own = [crash for crash, nodes in self._crashes if nodes <= set(alive)]
        if len(own) > 1:
            self._failure, self._final = own[0], True
        return self._failure

    def joined(self, node: str) -> None:
        """Note a node of the worker group that has begun; called by every rank."""
        self._nodes[node] += 1

    def trains(self, environment: str, modules: Sequence[str]) -> None:
        """Note that rank 0 does steps, and what its process is made of."""
        self._process = environment, tuple(modules)

    def team(self) -> Team | None:
        """Return the worker group that does steps; None while there is none."""
        if self._process is None:
            return None
        environment, modules = self._process
        return Team(environment=environment, modules=modules, nodes=dict(self._nodes))

    def group_failed(self, alive: Collection[str]) -> tuple[int, int]:
        """Note that a worker group failed, for whatever reason, or left a draining node.

        Args:
            alive: Ids of the nodes there are.

        Returns:
            Number of groups that failed since the last checkpoint although all their nodes are
            still there, and number of groups that lost a node.
        """
        self._process = None
        if not self._leaving:
            self._failures.append(frozenset(self._nodes))
        own = sum(nodes <= set(alive) for nodes in self._failures)
        return own, len(self._failures) - own

    def failure(self) -> Failure | None:
        """Return the failure that ended the launch, if one did."""
        return self._failure if self._final else None

    def is_final(self) -> bool:
        """Return whether some rank hit an error that ends the launch."""
        return self._final


def living_nodes() -> list[str]:
    """Return the ids of the cluster's nodes that are there."""
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


class Line(Protocol):
    """One end of a mailbox, as the workers use it."""

    def post(self, event: Event) -> None:
        """Send an event to the driver."""
        ...

    def progressed(self, run: str, step: int) -> None:
        """Report a run's committed checkpoint."""
        ...

    def stop_requested(self) -> bool:
        """Return whether the driver asked to stop; may be a moment old."""
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
        self._told = 0
        self._leave_below: float | None = None
        """Seconds that a draining node is still there at which the group leaves in any case."""

    def post(self, event: Event) -> None:
        """Send an event; it is numbered by arrival, and arrives in order."""
        self.actor.post.remote([event])
        if isinstance(event, Measurement) and self._told == 0:
            self._tell()

    def progressed(self, run: str, step: int) -> None:
        """Report a run's committed checkpoint."""
        self.actor.progressed.remote(run, step)
        if self._told == 1:  # what saving imports is known only now
            self._tell()

    def _tell(self) -> None:
        """Say what a process must have to go on in this one's place."""
        import ray

        environment = ray.get_runtime_context().get_runtime_env_string()
        self.actor.trains.remote(environment, imported_modules())
        self._told += 1

    def stop_requested(self) -> bool:
        """Return the last known answer and ask again in the background.

        The notice that a node of the group is draining is a wish to stop, too, as soon as the group
        may leave.
        """
        import ray

        left = seconds_left()
        if left is not None:
            if self._leave_below is None:
                self._leave_below, self._asked = left / 2, None
            if left <= self._leave_below:
                return True
        if self._asked is not None:
            ready, _ = ray.wait([self._asked], timeout=0)
            if ready:
                self._stop = self._stop or bool(ray.get(self._asked))
                self._asked = None
        elif time.monotonic() - self._asked_at > STOP_POLL_S:
            question = self.actor.stop_requested if left is None else self.actor.should_leave
            self._asked, self._asked_at = question.remote(), time.monotonic()
        return self._stop
