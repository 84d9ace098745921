"""Policy ``paper``: the fine selection of arXiv 2404.00069, and its trend predictor.

From the worst validation score upward a model is dropped if a surviving model validates better and
its trend predicts a better final score; then the lowest validation scores are dropped until half is
left. The trend is one-dimensional k-means per model: Eq. 5, nearest cluster by validation score,
and Eq. 6, its mean test score, are `KMeansTrend.predict`.

For each model its benchmark sets are clustered by its validation score at one stage. Deviation:
k-means of numbers has an exact solution, computed by `exact_kmeans`. The published code runs an
unseeded k-means, and its survivors differ from run to run. scikit-learn has no exact
one-dimensional k-means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.selection.matrix.history import History
from orchestrator.selection.policies.base import (
    POLICIES,
    Policy,
    PolicyConfig,
    Reason,
    Verdict,
    cut,
    ranked,
)
from orchestrator.selection.score_predictor import Observed, ShrunkenPredictor


@dataclass(frozen=True)
class KMeansTrend:
    """Mean test score of the nearest validation cluster (Eq. 5-6).

    Attributes:
        history: Benchmark curves without the target.
        clusters: C, clusters of benchmark sets per model and stage.
    """

    history: History
    clusters: int = 4

    def predict(self, model: str, stage: int, value: float) -> float:
        """Predicted final test score of ``model``.

        Args:
            model: Model id.
            stage: Stage of ``value``, 1..E.
            value: Validation score on the target.

        Returns:
            ``value`` itself for a model or stage without history.
        """
        if model not in self.history.models or stage > self.history.stages:
            return value
        curves = self.history.curves[self.history.models.index(model)]
        curves = curves[~np.isnan(curves).any(axis=1)]
        if not len(curves):
            return value
        ordered = curves[np.argsort(curves[:, stage - 1], kind="stable")]
        groups = [
            ordered[start:stop]
            for start, stop in exact_kmeans(ordered[:, stage - 1], self.clusters)
        ]
        nearest = min(groups, key=lambda group: abs(float(group[:, stage - 1].mean()) - value))
        return float(nearest[:, -1].mean())


def exact_kmeans(ordered: FloatArray, clusters: int) -> list[tuple[int, int]]:
    """The best partition of sorted numbers into at most ``clusters`` intervals (Wang & Song 2011).

    Args:
        ordered: N numbers, ascending.
        clusters: C.

    Returns:
        Half-open index ranges, in order, with the smallest sum of squared deviations.
    """
    count = len(ordered)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])

    def spread(start: int, stop: int) -> float:
        total = sums[stop] - sums[start]
        return float(squares[stop] - squares[start] - total * total / (stop - start))

    groups = min(clusters, count)
    cost = [spread(0, stop) if stop else 0.0 for stop in range(count + 1)]
    cuts: list[list[int]] = []
    for used in range(1, groups):
        best = [
            min((cost[cut] + spread(cut, stop), cut) for cut in range(used, stop))
            if stop > used
            else (np.inf, stop)
            for stop in range(count + 1)
        ]
        cost, last = [value for value, _ in best], [cut for _, cut in best]
        cuts.append(last)
    ranges, stop = [], count
    for last in reversed(cuts):
        ranges.append((last[stop], stop))
        stop = last[stop]
    return [(0, stop), *reversed(ranges)]


@POLICIES.add
@dataclass(frozen=True)
class PaperFilter(Policy):
    """Trend filter, then halving.

    Attributes:
        trend: Eq. 5-6.
        threshold: By how much (absolute) the prediction of a better-validated model must be higher.
    """

    class Config(PolicyConfig):
        """Registered as ``paper``."""

        type: str = "paper"

    trend: KMeansTrend
    threshold: float = 0.0

    @classmethod
    def make(cls, history: History, predictor: ShrunkenPredictor | None) -> Self:
        """Make the policy."""
        return cls(KMeansTrend(history))

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Filter, then drop the lowest validation scores until half is left."""
        values = {model: observed[(model, stage)] for model in pool}
        order = ranked(values)
        predicted = {m: self.trend.predict(m, stage, value) for m, value in values.items()}
        dominated: dict[str, Reason] = {}
        for model in reversed(order):
            better = [m for m in order if values[m] > values[model] and m not in dominated]
            rival = max(better, key=lambda m: (predicted[m], m), default=None)
            if rival and predicted[model] < predicted[rival] - self.threshold:
                text = f"{rival} validates better and its trend ends better ("
                both = predicted[rival], " against ", predicted[model]
                dominated[model] = Reason((text, *both, ")"))
        room = max(1, len(pool) // 2)
        return cut(order, values, room, dominated, f"validation score after epoch {stage}")
