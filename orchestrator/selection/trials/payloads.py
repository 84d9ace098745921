"""Payloads: what the driver sends to trials and to proxy tasks on the workers."""

from orchestrator.config import StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.training.config import FineTuneConfig


class TrialPayload(StrictModel):
    """One package to be fine-tuned on one task."""

    trial: str
    """Trial id."""
    package: str
    """Package reference with its version."""
    zoo: str
    """The zoo; a local path is absolute."""
    task: DatasetSpec
    """The rows; local paths are absolute."""
    fine_tune: FineTuneConfig
    """Training settings."""
    seed: int
    """Seed of the run."""
    state: str
    """Folder of the training state, on storage that every worker sees."""
    start: int = 0
    """Epochs done already."""
    gpus: float = 0.0
    """GPUs that are reserved for the trial."""
    keep_package: bool = False
    """Write the files of a package after the last epoch."""


class ProxyPayload(StrictModel):
    """One package to be scored by proxies."""

    package: str
    """Package reference with its version."""
    zoo: str
    """The zoo; a local path is absolute."""
    task: DatasetSpec
    """The rows; local paths are absolute."""
    proxies: tuple[str, ...]
    """Registered proxy scores."""
    rows: int
    """Training rows to read at most."""
    max_length: int
    """Tokens a text is truncated to."""
    seed: int
    """Seed of the run."""
