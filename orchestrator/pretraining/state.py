"""Jobs that the driver sends to workers, and the state that they store beside weights."""

from orchestrator.config import StrictModel
from orchestrator.modeling.config import ModelConfig
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.training.history import CurvePosition, HistoryRow

EVALUATIONS = "evaluations"
"""Folder of a run for those beside training: ``step-N`` has weights, ``step-N.json`` figures."""


class PretrainJob(StrictModel):
    """One model to train; all of it is decided before a worker starts."""

    config: PretrainConfig
    """The job's config."""
    model: ModelConfig
    """The model, with the vocabulary of the data filled in."""
    corpus: str
    """Folder of the prepared data: a path that all workers see, or an address."""
    run_dir: str
    """Folder of the run: a path that all workers see, or an address."""
    lease: int = 0
    """Number of the driver's lease on a run at an address."""
    start: str | None = None
    """Folder or address of the package whose weights training begins with; null: new weights."""
    guard: str | None = None
    """Folder of the prepared text of the guard, as `corpus`."""


class Start(StrictModel):
    """Resolved starting point of a run: the names in its config may move on."""

    package: str | None = None
    """Reference of the package whose weights it took."""
    manifest_sha256: str | None = None
    """Hash of that package's manifest."""
    checkpoint: str | None = None
    """Checkpoint of another run that it took over."""


class PretrainPayload(StrictModel):
    """The models of a launch; its workers train one after the other."""

    jobs: tuple[PretrainJob, ...]
    """At least one."""


class Origin(StrictModel):
    """Record of the run that wrote a checkpoint, for runs that start from it."""

    model: ModelConfig
    """The model, with the vocabulary filled in."""
    optimizer: str
    """Type of the optimizer whose state it holds."""
    tokenizer: str
    """`vocabulary_id` of the data's processor."""


class RunState(Origin):
    """State of a run."""

    history: tuple[HistoryRow, ...] = ()
    """Learning curves so far, in checkpoints of earlier versions."""
    curves: CurvePosition | None = None
    """Place in the learning curves."""
    seconds: float
    """Time trained, over all parts of a resumed run."""
    jumps: tuple[tuple[int, int], ...] = ()
    """Samples that were skipped, see `Detour`."""
