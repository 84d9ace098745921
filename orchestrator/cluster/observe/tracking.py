"""Experiment tracking of one run: TensorBoard files, and a run in MLflow.

Both live on the driver and are fed with the workers' events. After a crash a run resumes from its
last checkpoint and repeats some steps; what was already written for those is hidden (TensorBoard)
or left as they are and not written again (MLflow, which cannot remove values).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from orchestrator.config import RunSection
from orchestrator.training.config import TrackingSection
from orchestrator.training.events import Measurement

if TYPE_CHECKING:
    from orchestrator.cluster.observe.mlflow_run import MlflowRun

logger = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
FLUSH_S = 20.0
"""Seconds between two flushes to disk."""


class Tracker(Protocol):
    """A recorder of one run's metrics."""

    def resume(self, step: int) -> None:
        """Begin, or go back to the state after ``step`` steps."""
        ...

    def observe(self, event: Measurement) -> None:
        """Take the metrics of one interval or evaluation."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class TrackedJob(Protocol):
    """A job with a tracking section."""

    @property
    def run(self) -> RunSection:
        """The run section."""
        ...

    @property
    def tracking(self) -> TrackingSection:
        """The tracking section."""
        ...

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, Any]:
        """Return all settings."""
        ...


@dataclass(frozen=True, slots=True)
class Watched:
    """A run that is watched.

    Attributes:
        folder: Its folder.
        steps: Number of its steps.
        tracking: Trackers to use.
        mlflow: Its open MLflow run, if it has one.
    """

    folder: Path
    steps: int
    tracking: TrackingSection = field(default_factory=TrackingSection)
    mlflow: Tracker | None = None

    def trackers(self) -> list[Tracker]:
        """Open the run's trackers."""
        found: list[Tracker] = []
        if self.tracking.tensorboard:
            found.append(TensorBoard(self.folder / TENSORBOARD))
        if self.mlflow is not None:
            found.append(self.mlflow)
        return found


class TensorBoard:
    """Event files in a folder; a resumed run continues in the same folder.

    Written synchronously: tensorboardX's writer thread dies on a write error, and its queue (10)
    then blocks the caller. Here training goes on without curves.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        # Two processes that begin within one second must not write the same file.
        suffix = f".{len(list(folder.glob('events.*')))}"
        self._writer: EventsWriter | None = EventsWriter(str(folder / "events"), suffix)
        self._flushed = time.monotonic()

    def resume(self, step: int) -> None:
        """Hide what was written after ``step`` steps: these are trained again."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self._write([Event(wall_time=time.time(), step=step + 1, session_log=start)])

    def observe(self, event: Measurement) -> None:
        """Write the metrics of one interval or evaluation."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        now, step = time.time(), event.step
        named = ((f"{event.split}/{name}", value) for name, value in event.metrics.items())
        self._write([Event(wall_time=now, step=step, summary=scalar(*each)) for each in named])

    def _write(self, events: Sequence[Any]) -> None:
        if self._writer is None:
            return
        try:
            for event in events:
                self._writer.write_event(event)
            if time.monotonic() - self._flushed > FLUSH_S:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning("TensorBoard gets no more values, training goes on: %s", error)
        self._writer = None

    def close(self) -> None:
        """Write what is pending."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        except OSError as error:
            self._give_up(error)


def open_mlflow(config: TrackedJob, identity: str, folder: Path) -> "MlflowRun | None":
    """Open the MLflow run of a job, if its config asks for one.

    Args:
        config: The job.
        identity: Id of the run; the same after a restart.
        folder: Where a database is made if no store is named.

    Raises:
        InputError: MLflow is not installed, or its store cannot be reached.
    """
    if config.tracking.mlflow is None:
        return None
    config.tracking.require_installed()
    from orchestrator.cluster.observe.mlflow_run import MlflowRun, flat

    settings = dict(flat(config.model_dump(mode="json")))
    return MlflowRun(config.tracking.mlflow, config.run.name, identity, settings, folder)
