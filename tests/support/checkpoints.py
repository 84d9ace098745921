"""Published checkpoints, read whole."""

from torch import Tensor

from orchestrator.modeling.huggingface.folder import Source, compare, converted


def read_tensors(source: Source) -> dict[str, Tensor]:
    """Return the checkpoint's tensors under our names, in our layout."""
    return dict(converted(source, compare(source)))
