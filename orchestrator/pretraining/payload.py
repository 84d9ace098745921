"""Payload that the driver sends to the workers of a launch."""

from orchestrator.config import StrictModel
from orchestrator.modeling.config import ModelConfig
from orchestrator.pretraining.config import PretrainConfig


class PretrainJob(StrictModel):
    """One model to train; all of it is decided before a worker starts."""

    config: PretrainConfig
    """The job's config."""
    model: ModelConfig
    """The model, with the vocabulary of the data filled in."""
    corpus: str
    """Folder of the prepared data."""
    run_dir: str
    """Folder of the run, seen by all workers."""
    start: str | None = None
    """Folder of the package whose weights training begins with; null: new weights."""


class PretrainPayload(StrictModel):
    """The models of a launch; its workers train one after the other."""

    jobs: tuple[PretrainJob, ...]
    """At least one."""
