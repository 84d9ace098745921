"""The two streams of a dual model in one batch.

Keys of the second stream begin with ``second.``.
"""

from orchestrator.errors import InputError
from orchestrator.modeling.interfaces import Batch

SECOND = "second."
"""Prefix of what the second stream reads: ``second.input_ids``, ``second.pixel_values``."""


def first_stream(batch: Batch) -> Batch:
    """Return what the first stream reads."""
    return {key: value for key, value in batch.items() if not key.startswith(SECOND)}


def second_stream(batch: Batch) -> Batch:
    """Return what the second stream reads, without the prefix.

    Raises:
        InputError: There is nothing for it.
    """
    own = {
        key.removeprefix(SECOND): value for key, value in batch.items() if key.startswith(SECOND)
    }
    if not own:
        raise InputError(
            f"The model reads two streams; the batch has {', '.join(batch)}. Give the second one's "
            f"inputs with the prefix {SECOND!r}, for example second.input_ids."
        )
    return own
