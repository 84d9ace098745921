"""Which runs of words are hidden together.

Joshi et al., "SpanBERT" (TACL 2020), section 3.1: until the share is reached, a length is drawn
from a geometric distribution (p = 0.2, at most 10, mean 3.8 words) and a random word to begin at.

Deviations: the begin is drawn among words that are not hidden yet instead of drawing until one is
found (the same distribution, but the number of draws is bounded), and a span stops at a special
token. The last span is cut so that the number of hidden tokens is exactly the share.

Shapes: B batch, S length.
"""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SUCCESS = 0.2  # p of the geometric distribution
LONGEST = 10  # words of a span
_WEIGHTS = SUCCESS * (1 - SUCCESS) ** np.arange(LONGEST)
CUMULATIVE = np.cumsum(_WEIGHTS) / _WEIGHTS.sum()
"""Probability that a span has at most 1, 2, ..., LONGEST words."""


def choose_spans(
    place: FloatArray, length: FloatArray, ordinary: BoolArray, starts: BoolArray, count: IntArray
) -> tuple[BoolArray, IntArray]:
    """Choose spans until ``count`` tokens of each sequence are chosen.

    Args:
        place: uniform numbers, the k-th decides where the k-th span of a sequence begins, [B, S].
        length: uniform numbers, the k-th decides how long it is, [B, S].
        ordinary: tokens that may be chosen, [B, S].
        starts: where a word begins, [B, S].
        count: number of tokens to choose, [B].

    Returns:
        Which tokens are chosen, bool [B, S], and the number of the span of each, int64 [B, S].
    """
    chosen = np.zeros_like(ordinary)
    span = np.zeros(ordinary.shape, dtype=np.int64)
    words = 1 + np.searchsorted(CUMULATIVE, length, side="right").clip(max=LONGEST - 1)
    for row in range(len(ordinary)):
        heads = np.flatnonzero(starts[row] & ordinary[row])
        missing, number = int(count[row]), 0
        while missing > 0:
            free = heads[~chosen[row, heads]]
            begin = int(free[int(place[row, number] * len(free))])
            end = _end(begin, int(words[row, number]), starts[row], ordinary[row])
            new = begin + np.flatnonzero(~chosen[row, begin:end])[:missing]
            chosen[row, new], span[row, new] = True, number
            missing -= len(new)
            number += 1
    return chosen, span


def _end(begin: int, words: int, starts: BoolArray, ordinary: BoolArray) -> int:
    """Return where a span of that many words ends: before a special token at the latest."""
    stops = np.flatnonzero(~ordinary[begin:])
    limit = begin + int(stops[0]) if len(stops) else len(ordinary)
    after = begin + 1 + np.flatnonzero(starts[begin + 1 : limit])
    return int(after[words - 1]) if len(after) >= words else limit
