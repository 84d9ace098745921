"""Confidence intervals of metrics, and paired comparisons of two models on the same rows.

Intervals come from the bootstrap over rows (Efron and Tibshirani 1993, chapter 13: percentile
intervals), seeded, so that the same answers give the same interval. A share of right rows has
Wilson's interval instead (Wilson 1927), which is not empty where all rows are right. Two models are
compared on the same resamples, which removes the variance that their rows share (Koehn 2004).

Where each row is right or wrong, the drop of a child against its parent is a difference of paired
proportions: L rows lost and G rows gained of N. Its test is McNemar's, exact; its one-sided bound
is Tango's score bound (Tango 1998), but never below the exact bound of the lost share when nothing
was gained (Clopper and Pearson 1934). Without a lost row that exact bound is 1 - 0.05 ** (1 / N):
149 rows are needed to exclude a drop of 0.02.

A bootstrap cannot see what no row shows. Other metrics therefore have the same floor: when no row
got worse, the bound of their drop is at least 1 - 0.05 ** (1 / N) of their range.

Shapes: N rows, S statistics per row, R resamples.

scipy is imported where it is used: it costs each worker a second of start-up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.zoo.gate import CONFIDENCE

if TYPE_CHECKING:
    from orchestrator.tasks.metrics import Metric

RESAMPLES = 1000
"""Resamples of an interval: the standard error of a 2.5 % quantile's level is 0.5 %."""

CHUNK = 64
"""Resamples whose weights, [CHUNK, N], are in memory at a time."""

SEED = 20040725
"""Seed of all resamples; fixed, so that a metric of the same answers never changes."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric on N rows.

    Attributes:
        value: The metric.
        low: Lower end of the 95 % interval.
        high: Upper end.
        rows: N.
    """

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A child against its parent, on the same N rows.

    Attributes:
        parent: The parent's value.
        child: The child's value.
        drop: How much worse the child is: positive when it is worse, whatever the direction of the
            metric.
        low: Lower end of the 95 % interval of the drop.
        high: Upper end.
        bound: One-sided 95 % upper bound of the drop: what a gate holds.
        rows: N.
        lost: Rows on which the child is worse than the parent.
        gained: Rows on which it is better.
        p_value: McNemar's exact test, two-sided, of lost against gained.
    """

    parent: float
    child: float
    drop: float
    low: float
    high: float
    bound: float
    rows: int
    lost: int
    gained: int
    p_value: float


def estimate(metric: "Metric", rows: FloatArray) -> Estimate:
    """Return a metric with its interval.

    Args:
        metric: Which.
        rows: Its statistics per row, [N, S].
    """
    from scipy.stats import binomtest

    value = float(metric.value(np.ones((1, len(rows))), rows)[0])
    if metric.right_or_wrong and len(rows):
        right = round(float(rows[:, 0].sum()))
        share = binomtest(right, len(rows)).proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(value, float(share.low), float(share.high), len(rows))
    drawn = np.concatenate([metric.value(weights, rows) for weights in _resamples(len(rows))])
    low, high = _interval(drawn, value)
    return Estimate(value, low, high, len(rows))


def compare(metric: "Metric", parent: FloatArray, child: FloatArray) -> Comparison:
    """Compare two models by their statistics on the same rows.

    Args:
        metric: Which.
        parent: The parent's statistics per row, [N, S].
        child: The child's.

    Raises:
        ValueError: They are not of the same rows.
    """
    from scipy.stats import binomtest

    if parent.shape != child.shape:
        raise ValueError(f"statistics of {parent.shape} and {child.shape} are not of equal rows")
    count = len(parent)
    everything = np.ones((1, count))
    before = float(metric.value(everything, parent)[0])
    after = float(metric.value(everything, child)[0])
    sign = 1.0 if metric.higher_is_better else -1.0
    drop = sign * (before - after)
    better = sign * (metric.quality(parent) - metric.quality(child))
    lost, gained = int((better > 0).sum()), int((better < 0).sum())
    drops = np.concatenate(
        [
            sign * (metric.value(weights, parent) - metric.value(weights, child))
            for weights in _resamples(count)
        ]
    )
    low, high = _interval(drops, drop)
    if metric.right_or_wrong:
        bound = proportion_bound(lost, gained, count)
    else:
        bound = max(float(np.nanquantile(drops, CONFIDENCE)), drop)
        if lost == 0:
            bound = max(bound, drop + unseen_share(count) * metric.span)
    p_value = float(binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0
    return Comparison(before, after, drop, low, high, bound, count, lost, gained, p_value)


def proportion_bound(lost: int, gained: int, rows: int) -> float:
    """Return the one-sided 95 % upper bound of ``(lost - gained) / rows``.

    Tango's score bound (Tango 1998, equation 5): the largest difference d whose score test does not
    reject at 5 %. When nothing was gained, at least Clopper and Pearson's bound of the lost share.
    """
    from scipy.optimize import brentq
    from scipy.stats import beta, norm

    if rows == 0:
        return 1.0
    z = float(norm.ppf(CONFIDENCE))

    def excess(difference: float) -> float:
        return _score(lost, gained, rows, difference) + z

    point = (lost - gained) / rows
    top = 1.0 - 1e-9
    bound = top if excess(top) > 0 else float(brentq(excess, point, top, xtol=1e-12))
    if gained == 0 and lost < rows:
        exact = float(beta.ppf(CONFIDENCE, lost + 1, rows - lost))
        bound = max(bound, exact)
    return bound


def unseen_share(rows: int) -> float:
    """Return the largest share of rows that 95 % of samples of this size would have shown."""
    return 1.0 if rows == 0 else 1.0 - (1.0 - CONFIDENCE) ** (1.0 / rows)


def _score(lost: int, gained: int, rows: int, difference: float) -> float:
    """Return Tango's score statistic of ``p_lost - p_gained = difference`` (his equation 2).

    The nuisance parameter is the maximum-likelihood share of gained rows under the constraint, the
    larger root of a quadratic (his equation 3).
    """
    a = 2.0 * rows
    b = -lost - gained + (2.0 * rows - lost + gained) * difference
    c = -gained * difference * (1.0 - difference)
    root = (sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = rows * (2.0 * root + difference * (1.0 - difference))
    if variance <= 0.0:
        return 0.0 if lost - gained == rows * difference else -np.inf
    return (lost - gained - rows * difference) / sqrt(variance)


def _resamples(rows: int) -> Iterator[FloatArray]:
    """Yield how often each row is drawn, float64 [CHUNK, N], RESAMPLES times in all."""
    generator = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, CHUNK):
        size = min(CHUNK, RESAMPLES - start)
        drawn = generator.integers(0, rows, size=(size, rows))
        flat = (drawn + rows * np.arange(size)[:, None]).ravel()
        counts = np.bincount(flat, minlength=size * rows)
        yield counts.reshape(size, rows).astype(np.float64)


def _interval(drawn: FloatArray, value: float) -> tuple[float, float]:
    """Return the 95 % percentile interval; resamples without a value do not count."""
    finite = drawn[np.isfinite(drawn)]
    if len(finite) == 0:
        return value, value
    half = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(finite, [half, 1.0 - half])
    return float(low), float(high)
