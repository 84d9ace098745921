"""Columns of a matrix that hold the same scores under two names."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from orchestrator.arrays import FloatArray

MAX_CORRELATION = 0.999
"""Absolute correlation above which two columns are one; different tasks of the published matrices
reach .97."""
MIN_CORRELATED = 6
"""Models needed: few points correlate by chance."""
MIN_EQUAL = 3
"""Equal cells needed, with at least two different values among them."""


class Duplicate(NamedTuple):
    """Two columns with the same scores.

    Attributes:
        one: Index of the first column.
        other: Index of the second column.
        reason: In words.
    """

    one: int
    other: int
    reason: str


def duplicate_columns(scores: FloatArray, only: int | None = None) -> Iterable[Duplicate]:
    """Pairs of columns that are equal or correlate above `MAX_CORRELATION`.

    Args:
        scores: ``[M, N]``, NaN where missing.
        only: Yield only pairs with this column.
    """
    for one in range(scores.shape[1]):
        for other in range(one + 1, scores.shape[1]):
            if only is not None and only not in (one, other):
                continue
            both = scores[:, [one, other]]
            both = both[~np.isnan(both).any(axis=1)]
            reason = _same(both)
            if reason:
                yield Duplicate(one, other, reason)


def _same(both: FloatArray) -> str:
    count = len(both)
    if count < MIN_EQUAL or (both == both[0]).all(axis=0).any():
        return ""
    if (both[:, 0] == both[:, 1]).all():
        return f"equal for all {count} models"
    correlation = float(np.atleast_2d(np.corrcoef(both.T))[0, 1])
    if count >= MIN_CORRELATED and abs(correlation) > MAX_CORRELATION:
        return f"correlation {correlation:.4f} over {count} models"
    return ""
