"""Events: messages from the workers of a launch to the driver.

Rank 0 sends them with ``WorkerContext.emit``; the driver shows, records and counts them. A stage
derives its own from the classes here; what has a ``message`` is shown to the user as a warning.
"""

from typing import NamedTuple

from pydantic import ConfigDict

from orchestrator.config.strict import StrictModel

Metrics = dict[str, float]
"""Names of metrics to values."""
EPOCH_RESULT = "epoch_result"
"""Key of a trial's own result, as JSON, in the results that Ray Tune hands to a scheduler."""
BUILDING = "building the model"
"""Message of a worker that begins."""


class NewTrial(NamedTuple):
    """A trial that Ray Tune is asked to start."""

    name: str
    """Its id."""
    target: str
    """``module:Class`` of the trial, importable on every worker."""
    payload: StrictModel
    """Argument of the class."""


class Event(StrictModel):
    """Base of all events."""


class GroupStarted(Event):
    """A worker group has begun, or begun again."""

    world: int
    """Number of workers."""


class Status(Event):
    """Work before the first step; shown, not recorded."""

    message: str
    """A few words, like ``building the model``."""


def loading(step: int) -> Status:
    """Return what a resumed run does next.

    Args:
        step: Optimizer steps done at its checkpoint.
    """
    return Status(message=f"loading the checkpoint of step {step}")


class Notice(Event):
    """Something that the user should know of; training goes on."""

    message: str
    """One or two sentences."""


class StepHung(Notice):
    """A phase made no progress for ``train.hang_timeout_s``; the worker ends itself."""

    rank: int
    """The worker that noticed."""


class NodesDraining(Notice):
    """Nodes of the worker group will be taken away; it saves and goes on on other nodes."""


class CheckpointDamaged(Notice):
    """A checkpoint does not match its manifest and was passed over."""


class NoSpace(Notice):
    """A checkpoint waits for space on the storage."""


class StoreSlow(Notice):
    """The object store of a run is slow or cannot be reached; copies to it are tried again."""


class RunStarted(Event):
    """A run begins or resumes."""

    run: str
    """Name of the run."""
    step: int
    """Optimizer steps done."""
    message: str = ""
    """Checkpoint that a resumed run goes on from, in words; empty: it begins."""


class RolledBack(Notice):
    """A run went back to an earlier step, and continues with other samples."""

    step: int
    """Optimizer steps done."""


class Measurement(Event):
    """Metrics of a training interval or an evaluation, as the training loop reports them."""

    # A loss that diverged is NaN or infinite, and stays so.
    model_config = ConfigDict(allow_inf_nan=True)

    run: str = ""
    """Name of the run; empty as the loop reports it, the stage fills it in."""
    step: int
    """Optimizer steps done."""
    epoch: float
    """Epochs done."""
    split: str
    """``train``, ``validation`` or ``test``."""
    metrics: Metrics
    """Means over the interval; counts are sums."""
    seconds: float
    """Seconds since the loop began."""
