"""Paired tests of two candidates on the same validation rows, and the ties of a winner.

- Right or wrong rows: McNemar's exact test (McNemar 1947), two-sided, on the rows that differ.
- Other scores: Wilcoxon's signed-rank test (Wilcoxon 1945), two-sided, on the differences.

The winner was chosen as the best of m candidates, so its lead over any other one is inflated. The
correction (Holm 1979) therefore counts all m (m - 1) / 2 pairs of candidates, not m - 1.
"""

from collections.abc import Mapping

import numpy as np

from orchestrator.arrays import AnyArray
from orchestrator.errors import StageError


def paired_p_value(one: AnyArray, two: AnyArray) -> float:
    """Return the p-value of equal candidates, from their scores on the same N rows.

    Args:
        one: Scores from `row_scores`, bool or float64 ``[N]``.
        two: Scores of the other candidate on the same rows.

    Raises:
        StageError: They are not scores of the same rows by the same metric.
    """
    from scipy.stats import binomtest, wilcoxon

    if one.shape != two.shape or one.dtype != two.dtype:
        raise StageError(
            f"ties: scores of {one.shape} {one.dtype} and {two.shape} {two.dtype} rows cannot be "
            "paired; the candidates were validated on different rows."
        )
    if one.dtype == np.bool_:
        lost, gained = int((one & ~two).sum()), int((two & ~one).sum())
        return float(binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0
    if np.array_equal(one, two, equal_nan=True):
        return 1.0
    difference = one - two
    if not np.isfinite(difference).all():
        return 0.0  # a broken answer is not equal to a sound one
    return float(wilcoxon(difference).pvalue)


def corrected_p_values(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's corrected p-values of comparisons with a winner chosen among all of them.

    Args:
        p_values: Other candidate to the p-value of its comparison with the winner.
    """
    others = len(p_values)
    pairs, least, corrected = (others + 1) * others // 2, 0.0, dict[str, float]()
    for place, name in enumerate(sorted(p_values, key=lambda other: (p_values[other], other))):
        least = max(least, min(1.0, p_values[name] * (pairs - place)))
        corrected[name] = least
    return corrected
