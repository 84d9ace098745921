"""Policy ``fast``: one epoch for every model, then only the leader of the shrunken predictor."""

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
from orchestrator.selection.score_predictor import Observed, ShrunkenPredictor


@POLICIES.add
@dataclass(frozen=True)
class Fast(Policy):
    """Keeps only the leader after the first epoch.

    Attributes:
        predictor: Fitted on the history without the target.
    """

    class Config(PolicyConfig):
        """Registered as ``fast``."""

        type: str = "fast"

    default_pool = 8
    min_history = 16  # with about 15 data sets or fewer it is worse than `default`
    fallback = "default"

    predictor: ShrunkenPredictor

    @classmethod
    def make(cls, history: History, predictor: ShrunkenPredictor | None) -> Self:
        """Make the policy."""
        assert predictor is not None  # guaranteed by `min_history`
        return cls(predictor)

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Keep the model with the best predicted final score."""
        predicted = self.predictor.predict(observed)
        scores = {model: predicted[model] for model in pool}
        return cut(ranked(scores), scores, 1, {}, "predicted final score")

    def sizes(self, pool: int, stages: int) -> list[int]:
        """One stage for all models, the others for one."""
        return [pool, *[1] * (stages - 1)]
