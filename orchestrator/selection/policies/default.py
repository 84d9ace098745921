"""Policy ``default``: rank by the shrunken predictor and drop models with little chance."""

import math
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
from orchestrator.selection.score_predictor import (
    MIN_HISTORY_SETS,
    Observed,
    ShrunkenPredictor,
)

MIN_CHANCE = 0.4
"""A model stays while its chance of beating the leader is at least this."""


@POLICIES.add
@dataclass(frozen=True)
class Shrunken(Policy):
    """Drops models with little chance of beating the leader, then cuts to half the pool.

    Attributes:
        predictor: Fitted on the history without the target.
    """

    class Config(PolicyConfig):
        """Registered as ``default``."""

        type: str = "default"

    min_history = MIN_HISTORY_SETS

    predictor: ShrunkenPredictor

    @classmethod
    def make(cls, history: History, predictor: ShrunkenPredictor | None) -> Self:
        """Make the policy."""
        assert predictor is not None  # guaranteed by `min_history`
        return cls(predictor)

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """``{m : Phi((pred_m - pred_leader) / (sqrt(2) sd)) >= .4}``, cut to half the pool.

        Before the last stage a single model is kept.
        """
        predicted = self.predictor.predict(observed)
        scores = {model: predicted[model] for model in pool}
        order = ranked(scores)
        scale = math.sqrt(2) * self.predictor.spread(stage)
        hopeless: dict[str, str] = {}
        for model in order[1:]:
            chance = _normal_cdf((scores[model] - scores[order[0]]) / scale)
            if chance < MIN_CHANCE:
                hopeless[model] = f"its chance of beating {order[0]} is {chance:.2f}"
        room = 1 if stage == last - 1 else max(1, len(pool) // 2)
        return cut(order, scores, room, hopeless, "predicted final score")


def _normal_cdf(value: float) -> float:
    return 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))
