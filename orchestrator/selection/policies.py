"""What to do after a complete rung: halve, use the shrunken predictor, or the paper's filter."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from orchestrator.selection.convergence import (
    MIN_HISTORY_SETS,
    KMeansTrend,
    Observed,
    ShrunkenPredictor,
)
from orchestrator.selection.matrix import History

PolicyName = Literal["default", "fast", "paper", "sh"]
MIN_CHANCE = 0.4
DEFAULT_POOL, FAST_POOL = 10, 8
FAST_MIN_HISTORY = 16
"""The fast preset loses to the default with about 15 history sets or fewer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy makes of one complete rung.

    Attributes:
        kept: Models that train another epoch, best first.
        dropped: Model -> the reason, in words.
        scores: Model -> the number it was ranked by (a predicted final score, or the last value).
    """

    kept: tuple[str, ...]
    dropped: dict[str, str]
    scores: dict[str, float]


class Policy(Protocol):
    """Decides after a complete rung."""

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Judge ``pool`` after ``stage`` of ``last`` stages."""
        ...

    def sizes(self, pool: int, stages: int) -> list[int]:
        """The most models that each stage can train: the worst-case cost is their sum."""
        ...


@dataclass(frozen=True)
class Halving:
    """Plain successive halving on the last validation score (``sh``)."""

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Keep the better half by the last value."""
        scores = {model: observed[(model, stage)] for model in pool}
        room = max(1, len(pool) // 2)
        return cut(ranked(scores), scores, room, {}, f"validation score after epoch {stage}")

    def sizes(self, pool: int, stages: int) -> list[int]:
        """Halve after every stage."""
        return halving_sizes(pool, stages)


@dataclass(frozen=True)
class Shrunken:
    """Rank by the shrunken predictor; drop models with little chance of beating the leader.

    Attributes:
        predictor: Fitted on the history without the target.
        keep_only_leader: The fast preset: one epoch each, then only the best.
    """

    predictor: ShrunkenPredictor
    keep_only_leader: bool = False

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """``{m : Phi((pred_m - pred_leader) / (sqrt(2) sd)) >= .4}``, cut to half the pool."""
        predicted = self.predictor.predict(observed)
        scores = {model: predicted[model] for model in pool}
        order = ranked(scores)
        if self.keep_only_leader:
            return cut(order, scores, 1, {}, "predicted final score")
        scale = math.sqrt(2) * self.predictor.spread(stage)
        hopeless: dict[str, str] = {}
        for model in order[1:]:
            chance = _normal_cdf((scores[model] - scores[order[0]]) / scale)
            if chance < MIN_CHANCE:
                hopeless[model] = f"its chance of beating {order[0]} is {chance:.2f}"
        room = 1 if stage == last - 1 else max(1, len(pool) // 2)
        return cut(order, scores, room, hopeless, "predicted final score")

    def sizes(self, pool: int, stages: int) -> list[int]:
        """Fast: one stage for all, the rest for one. Default: at most halving."""
        if self.keep_only_leader:
            return [pool, *[1] * (stages - 1)]
        return halving_sizes(pool, stages)


@dataclass(frozen=True)
class PaperFilter:
    """The paper's fine selection: trend filter from the worst up, then halving (section 1.3).

    Attributes:
        trend: Eq. 5-6.
        threshold: How much better (absolute) a better-validated model's prediction must be.
    """

    trend: KMeansTrend
    threshold: float = 0.0

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

    def sizes(self, pool: int, stages: int) -> list[int]:
        """At most halving."""
        return halving_sizes(pool, stages)


def make_policy(
    name: PolicyName, history: History, tags: Iterable[str] = ()
) -> tuple[Policy, ShrunkenPredictor | None, PolicyName]:
    """The policy, its predictor if it has one, and the name of what was really made.

    ``fast`` becomes ``default`` with fewer than `FAST_MIN_HISTORY` history sets (it is worse
    there), and both become ``sh`` with fewer than `MIN_HISTORY_SETS`.
    """
    measured = int(((~np.isnan(history.curves[:, :, -1])).sum(axis=0) >= 2).sum())
    predictor: ShrunkenPredictor | None = None
    if measured >= MIN_HISTORY_SETS:
        predictor = ShrunkenPredictor.fit(history, set(tags))
    if name == "paper":
        return PaperFilter(KMeansTrend(history)), predictor, "paper"
    if name == "sh" or predictor is None:
        return Halving(), predictor, "sh"
    fast = name == "fast" and measured >= FAST_MIN_HISTORY
    return Shrunken(predictor, keep_only_leader=fast), predictor, "fast" if fast else "default"


def halving_sizes(pool: int, stages: int) -> list[int]:
    """Models trained at each stage when half is dropped each time: 40, 20, 10, 5, 2."""
    return [max(1, pool >> stage) for stage in range(stages)]


def ranked(scores: dict[str, float]) -> list[str]:
    """Best first; ties by model id."""
    return sorted(scores, key=lambda model: (-scores[model], model))


def cut(
    order: Sequence[str], scores: dict[str, float], room: int, why: dict[str, str], by: str
) -> Verdict:
    """Drop the models in ``why``, then the worst until ``room`` are left."""
    alive = [model for model in order if model not in why]
    dropped = dict(why)
    for place, model in enumerate(order, start=1):
        if model not in why and model not in alive[:room]:
            dropped[model] = (
                f"place {place} of {len(order)} by {by} ({scores[model]:.3f}; "
                f"{order[0]}: {scores[order[0]]:.3f}), {room} kept"
            )
    return Verdict(tuple(alive[:room]), dropped, dict(scores))


def _normal_cdf(value: float) -> float:
    return 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))
