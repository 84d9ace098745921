"""Policy ``sh``: plain successive halving on the last validation score."""

from collections.abc import Sequence
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
class Halving(Policy):
    """Keeps the better half by the last validation score; needs no history."""

    class Config(PolicyConfig):
        """Registered as ``sh``."""

        type: str = "sh"

    @classmethod
    def make(cls, history: History, predictor: ShrunkenPredictor | None) -> Self:
        """Make the policy."""
        return cls()

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Keep the better half."""
        return better_half(pool, stage, observed, f"epoch {stage}")


def better_half(pool: Sequence[str], stage: int, observed: Observed, after: str) -> Verdict:
    """Keep the better half by the validation scores of a stage.

    Args:
        pool: Models with a score.
        stage: The stage.
        observed: Every value recorded.
        after: Training up to the end of the stage, in words.
    """
    scores = {model: observed[(model, stage)] for model in pool}
    room = max(1, len(pool) // 2)
    return cut(ranked(scores), scores, room, {}, f"validation score after {after}")
