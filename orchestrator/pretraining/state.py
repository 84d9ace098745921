"""States that pre-training stores beside the weights of a checkpoint."""

from orchestrator.config import StrictModel
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.history import HistoryRow


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

    history: tuple[HistoryRow, ...]
    """Learning curves so far."""
    seconds: float
    """Time trained, over all parts of a resumed run."""
    jumps: tuple[tuple[int, int], ...] = ()
    """Samples that were skipped, see `Detour`."""
