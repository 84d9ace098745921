"""Policy ``paper``: the fine selection of arXiv 2404.00069.

From the worst validation score upward a model is dropped if a surviving model validates better and
its trend (Eq. 5-6) predicts a better final score; then the lowest validation scores are dropped
until half is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from orchestrator.selection.matrix.history import History
from orchestrator.selection.policies.base import (
    POLICIES,
    Policy,
    PolicyConfig,
    Verdict,
    cut,
    ranked,
)
from orchestrator.selection.predictors.shrunken import Observed, ShrunkenPredictor
from orchestrator.selection.predictors.trend import KMeansTrend


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
        dominated: dict[str, str] = {}
        for model in reversed(order):
            better = [m for m in order if values[m] > values[model] and m not in dominated]
            rival = max(better, key=lambda m: (predicted[m], m), default=None)
            if rival and predicted[model] < predicted[rival] - self.threshold:
                dominated[model] = (
                    f"{rival} validates better and its trend ends higher "
                    f"({predicted[rival]:.3f} against {predicted[model]:.3f})"
                )
        room = max(1, len(pool) // 2)
        return cut(order, values, room, dominated, f"validation score after epoch {stage}")
