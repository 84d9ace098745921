"""Policy ``default``: rank by the shrunken predictor and drop models with little chance.

Models whose chance is open go on as long as the epochs of the usual halving allow. Epochs that
early drops or a small pool save are thus spent where the choice is open. With recorded trainings of
tiny encoders, cutting a pool of 4 or 5 to half after one epoch cost 1.2 points of 1.4 that were
lost against brute force.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from orchestrator.selection.matrix.history import History
from orchestrator.selection.policies.base import (
    POLICIES,
    Policy,
    PolicyConfig,
    Verdict,
    cut,
    halving_sizes,
    largest_room,
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
    """Drops models with little chance of beating the leader, then as many as the limit asks for.

    Attributes:
        predictor: Fitted on the history without the target.
        epochs: Epochs that all stages may take, if halving takes fewer.
    """

    class Config(PolicyConfig):
        """Registered as ``default``."""

        type: str = "default"

    min_history = MIN_HISTORY_SETS

    predictor: ShrunkenPredictor
    epochs: int = 0

    @classmethod
    def make(cls, history: History, predictor: ShrunkenPredictor | None) -> Self:
        """Make the policy."""
        assert predictor is not None  # guaranteed by `min_history`
        return cls(predictor)

    def within(self, epochs: int) -> "Shrunken":
        """The policy with a limit of epochs."""
        return replace(self, epochs=epochs)

    def sizes(self, pool: int, stages: int) -> list[int]:
        """Sizes when every choice stays open."""
        sizes, limit = [pool], self._limit(pool, stages)
        while len(sizes) < stages - 1:
            sizes.append(largest_room(sizes[-1], sum(sizes), stages - len(sizes), limit))
        return [*sizes, 1][:stages]

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """``{m : Phi((pred_m - pred_leader) / (sqrt(2) sd)) >= .4}``, cut to what the limit allows.

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
        limit = self._limit(sum(at == 1 for _, at in observed), last)
        room = largest_room(len(pool), len(observed), last - stage, limit)
        room = 1 if stage == last - 1 else room
        return cut(order, scores, room, hopeless, "predicted final score")

    def _limit(self, pool: int, stages: int) -> int:
        """Epochs of all stages: those of halving at least."""
        return max(self.epochs, sum(halving_sizes(pool, stages)))


def _normal_cdf(value: float) -> float:
    return 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))
