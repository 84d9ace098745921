"""Metrics of tasks, as functions of statistics per row.

A metric takes two steps: from the truth and the answers of N rows to statistics per row, [N, S];
and from rows with weights to a value. With weights one it is the metric; with the counts of a
resample it is one draw of the bootstrap. Most metrics depend on sums of the statistics alone
(``SumMetric``), which makes a thousand resamples one matrix product.

Shapes: N rows, S statistics, R weightings, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import FloatArray, IntArray

BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017)."""


class Metric(ABC):
    """One figure of a task.

    Attributes:
        name: Key in reports and gates, like ``accuracy`` or ``recall.spam``.
        higher_is_better: Direction.
        span: Largest minus smallest value it can have; 1 for a share.
        right_or_wrong: Whether it is the mean of a 0 or 1 per row, so that exact tests apply.
    """

    name: str
    higher_is_better: bool = True
    span: float = 1.0
    right_or_wrong: bool = False

    @abstractmethod
    def value(self, weights: FloatArray, rows: FloatArray) -> FloatArray:
        """Return the metric for each weighting; NaN where it is undefined.

        Args:
            weights: How often each row counts, [R, N].
            rows: Statistics, [N, S].

        Returns:
            float64 [R].
        """

    @abstractmethod
    def quality(self, rows: FloatArray) -> FloatArray:
        """Return one number per row that orders rows as the metric does, [N].

        Comparisons count the rows on which a child is better or worse by it.
        """


@dataclass(frozen=True)
class SumMetric(Metric):
    """A function of the summed statistics.

    Attributes:
        combine: From sums [R, S] to values [R].
        order: From statistics [N, S] to one number per row, [N]; by default the value of each row
            by itself.
    """

    name: str
    combine: Callable[[FloatArray], FloatArray]
    higher_is_better: bool = True
    span: float = 1.0
    right_or_wrong: bool = False
    order: Callable[[FloatArray], FloatArray] | None = None

    def value(self, weights: FloatArray, rows: FloatArray) -> FloatArray:
        """Return the metric for each weighting."""
        return self.combine(weights @ rows)

    def quality(self, rows: FloatArray) -> FloatArray:
        """Return the metric of each row by itself; 0 where that is undefined."""
        return np.nan_to_num(self.combine(rows) if self.order is None else self.order(rows))


@dataclass(frozen=True)
class WeightedMetric(Metric):
    """A function of the rows and their weights.

    Attributes:
        compute: From weights [R, N] and statistics [N, S] to values [R].
        order: From statistics [N, S] to one number per row, [N].
    """

    name: str
    compute: Callable[[FloatArray, FloatArray], FloatArray]
    order: Callable[[FloatArray], FloatArray]
    higher_is_better: bool = True
    span: float = 1.0
    right_or_wrong: bool = False

    def value(self, weights: FloatArray, rows: FloatArray) -> FloatArray:
        """Return the metric for each weighting."""
        return self.compute(weights, rows)

    def quality(self, rows: FloatArray) -> FloatArray:
        """Return one number per row."""
        return self.order(rows)


@dataclass(frozen=True)
class DrawMetric(Metric):
    """A function of the rows themselves, computed anew for each resample.

    Attributes:
        compute: From the statistics of the drawn rows, [M, S], to a value.
        order: From statistics [N, S] to one number per row, [N].
    """

    name: str
    compute: Callable[[FloatArray], float]
    order: Callable[[FloatArray], FloatArray]
    higher_is_better: bool = True
    span: float = 1.0
    right_or_wrong: bool = False

    def value(self, weights: FloatArray, rows: FloatArray) -> FloatArray:
        """Return the metric for each weighting."""
        counts = weights.astype(np.int64)
        return np.asarray([self.compute(np.repeat(rows, count, axis=0)) for count in counts])

    def quality(self, rows: FloatArray) -> FloatArray:
        """Return one number per row."""
        return self.order(rows)


def share(name: str) -> SumMetric:
    """Return the mean of a 0 or 1 per row; statistics [N, 2]: right, counted."""
    return SumMetric(name, ratio, right_or_wrong=True)


def mean(name: str, *, higher_is_better: bool = True, span: float = 1.0) -> SumMetric:
    """Return a mean; statistics [N, 2]: sum, number of terms."""
    return SumMetric(name, ratio, higher_is_better, span)


def ratio(sums: FloatArray) -> FloatArray:
    """Return the first statistic divided by the second; NaN where that is 0. [..., 2] → [...]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def f1(sums: FloatArray) -> FloatArray:
    """Return F1 of true positives, predicted and actual positives, [..., 3] → [...].

    0 where nothing is predicted or nothing is there, as scikit-learn and seqeval count it.
    """
    right, predicted, actual = np.moveaxis(sums, -1, 0)
    total = predicted + actual
    return np.where(total > 0, 2.0 * right / np.maximum(total, 1e-300), 0.0)


def precision(sums: FloatArray) -> FloatArray:
    """Return the precision of [..., 3] (see ``f1``); 0 where nothing is predicted."""
    return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1e-300), 0.0)


def recall(sums: FloatArray) -> FloatArray:
    """Return the recall of [..., 3] (see ``f1``); 0 where nothing is there."""
    return np.where(sums[..., 2] > 0, sums[..., 0] / np.maximum(sums[..., 2], 1e-300), 0.0)


def macro_f1(sums: FloatArray) -> FloatArray:
    """Return the mean F1 of the classes that occur or are predicted, [..., 3 K] → [...]."""
    classes = sums.reshape(*sums.shape[:-1], -1, 3)
    scores = f1(classes)
    present = (classes[..., 1] + classes[..., 2]) > 0
    return np.asarray(scores.sum(-1) / np.maximum(present.sum(-1), 1))


def matthews(sums: FloatArray) -> FloatArray:
    """Return the multi-class Matthews correlation (Gorodkin 2004), [..., 1 + 3 K] → [...].

    Statistics: 1 per row, then per class right, predicted and actual.
    """
    count = sums[..., 0]
    classes = sums[..., 1:].reshape(*sums.shape[:-1], -1, 3)
    right, predicted, actual = (classes[..., i] for i in range(3))
    covariance = right.sum(-1) * count - (predicted * actual).sum(-1)
    spread = (count**2 - (predicted**2).sum(-1)) * (count**2 - (actual**2).sum(-1))
    return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 1e-300)), 0.0)


def confusion(truth: IntArray, answers: IntArray, classes: int) -> FloatArray:
    """Return per class whether a row is right, predicted and actual, float64 [N, 3 K]."""
    predicted = np.eye(classes)[answers]
    actual = np.eye(classes)[truth]
    return np.stack([predicted * actual, predicted, actual], axis=-1).reshape(len(truth), -1)


def calibration_rows(scores: FloatArray, truth: IntArray) -> FloatArray:
    """Return statistics of the calibration error: per bin count, confidence, right, [N, 3 BINS]."""
    confidence = scores.max(axis=1)
    right = (scores.argmax(axis=1) == truth).astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    place = np.eye(BINS)[bins]
    return np.concatenate([place, place * confidence[:, None], place * right[:, None]], axis=1)


def calibration_error(sums: FloatArray) -> FloatArray:
    """Return the calibration error of sums [..., 3 BINS] (Guo et al. 2017, equation 3)."""
    count, confidence, right = np.split(sums, 3, axis=-1)
    return np.asarray(np.abs(right - confidence).sum(-1) / np.maximum(count.sum(-1), 1e-300))


def roc_auc(weights: FloatArray, rows: FloatArray) -> FloatArray:
    """Return the mean one-against-rest area under the ROC curve, [R, N], [N, 1 + K] → [R].

    The first column is the class, the others the scores. Ties count one half (Hanley and McNeil
    1982); classes without both kinds of rows do not count. With two classes both are equal.
    """
    truth, scores = rows[:, 0], rows[:, 1:]
    areas = np.full((scores.shape[1], len(weights)), np.nan)
    for label in range(scores.shape[1]):
        order = np.argsort(scores[:, label], kind="stable")
        ranked = scores[order, label]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # of equal scores
        positive = weights[:, order] * (truth[order] == label)
        negative = weights[:, order] - positive
        above = np.add.reduceat(positive, starts, axis=1)
        level = np.add.reduceat(negative, starts, axis=1)
        below = np.cumsum(level, axis=1) - level
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        won = (above * (below + level / 2)).sum(axis=1)
        np.divide(won, pairs, out=areas[label], where=pairs > 0)
    known = np.isfinite(areas)
    total = np.where(known, areas, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def pearson(sums: FloatArray) -> FloatArray:
    """Return the correlation from sums of 1, x, y, x², y², xy, [..., 6] → [...]; 0 if constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = (n * xx - x**2) * (n * yy - y**2)
    tiny = 1e-24 * np.maximum(n * xx * n * yy, 1e-300)  # rounding of a constant column
    return np.where(spread > tiny, (n * xy - x * y) / np.sqrt(np.maximum(spread, 1e-300)), 0.0)


def pearson_rows(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the statistics of ``pearson``, [N, 6]; centered, which changes no correlation."""
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def spearman(rows: FloatArray) -> float:
    """Return the rank correlation of two columns, [M, 2] → value; 0 if one is constant."""
    from scipy.stats import rankdata  # a second of start-up that only measuring needs

    ranks = pearson_rows(rankdata(rows[:, 0]), rankdata(rows[:, 1]))
    return float(pearson(ranks.sum(axis=0)))
