"""What writes down the curves of one run: TensorBoard files, and a run in MLflow.

Both live on the driver and are fed with the events of ``training.loop``. After a crash a run goes
on from its last checkpoint, so it repeats some steps; what was written of those is hidden
(TensorBoard) or kept and not written again (MLflow, which cannot forget).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from orchestrator.config import RunSection
from orchestrator.training.tracking import TrackingSection

if TYPE_CHECKING:
    from orchestrator.cluster.mlflow_run import MlflowRun

TENSORBOARD = "tensorboard"


class Tracker(Protocol):
    """Something that writes down the curves of one run."""

    def resume(self, step: int) -> None:
        """Begin, or go back to the state after ``step`` steps."""
        ...

    def observe(self, event: Mapping[str, Any]) -> None:
        """Take one event: ``step``, ``split``, ``metrics``."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class TrackedJob(Protocol):
    """A job that says who is told how training goes."""

    @property
    def run(self) -> RunSection:
        """Its name."""
        ...

    @property
    def tracking(self) -> TrackingSection:
        """Who is told."""
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
        tracking: Who is told.
        mlflow: Its open MLflow run, if it has one.
    """

    folder: Path
    steps: int
    tracking: TrackingSection = field(default_factory=TrackingSection)
    mlflow: Tracker | None = None

    def trackers(self) -> list[Tracker]:
        """Return who is told from now on."""
        found: list[Tracker] = []
        if self.tracking.tensorboard:
            found.append(TensorBoard(self.folder / TENSORBOARD))
        if self.mlflow is not None:
            found.append(self.mlflow)
        return found


class TensorBoard:
    """Event files in a folder; a resumed run goes on in the same folder.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        # Two processes that begin within one second must not write the same file.
        suffix = f".{len(list(folder.glob('events.*')))}" if folder.is_dir() else ""
        self._writer = SummaryWriter(str(folder), write_to_disk=True, filename_suffix=suffix)

    def resume(self, step: int) -> None:
        """Hide what was written after ``step`` steps: these are trained again."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self._writer.file_writer.add_event(Event(step=step + 1, session_log=start))

    def observe(self, event: Mapping[str, Any]) -> None:
        """Write one event of the training loop."""
        for name, value in event["metrics"].items():
            self._writer.add_scalar(f"{event['split']}/{name}", value, event["step"])

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


def open_mlflow(config: TrackedJob, identity: str, folder: Path) -> "MlflowRun | None":
    """Open the MLflow run of a job, if it has one.

    Args:
        config: The job.
        identity: What distinguishes this run from all others, also after a restart.
        folder: Where a database is made if no store is named.

    Raises:
        InputError: MLflow is not installed, or its store cannot be reached.
    """
    if config.tracking.mlflow is None:
        return None
    config.tracking.require_installed()
    from orchestrator.cluster.mlflow_run import MlflowRun, flat

    settings = dict(flat(config.model_dump(mode="json")))
    return MlflowRun(config.tracking.mlflow, config.run.name, identity, settings, folder)
