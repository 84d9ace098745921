"""Sizes of the chunks that long sequences are cut into. Imports without torch."""

MIN_CHUNK = 64
"""Fewer queries do not fill a matrix product (measured on a CPU: 32 to 512)."""
CHUNKED_FROM = 2
"""Shortest sequences that are cut into chunks, in keys of one chunk."""


def chunk_of(window: int, length: int, *, both_sides: bool) -> int | None:
    """Return how many queries of a block with a window are one chunk; None: it is not cut.

    Args:
        window: Positions that a position may look back, itself included.
        length: Positions of a sequence.
        both_sides: Whether a position may look ahead as well.
    """
    size = max(MIN_CHUNK, window - 1)
    keys = size + (2 if both_sides else 1) * (window - 1)
    return size if length >= CHUNKED_FROM * keys else None
