"""Synchronous successive halving: who trains another epoch, decided only on complete rungs.

A rung is one epoch of every model still in the pool. `Bracket` holds the state and is fed by the
Tune scheduler and by `replay` alike, so that a replay is the same code. Values may arrive in any
order: a decision reads a complete rung in the order of model ids, hence the same inputs give the
same survivors at any concurrency.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.errors import InputError, StageError
from orchestrator.selection.convergence import KMeansTrend, Observed, ShrunkenPredictor

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
        return _cut(_ranked(scores), scores, room, {}, f"validation score after epoch {stage}")

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
        order = _ranked(scores)
        if self.keep_only_leader:
            return _cut(order, scores, 1, {}, "predicted final score")
        scale = math.sqrt(2) * self.predictor.spread(stage)
        hopeless: dict[str, str] = {}
        for model in order[1:]:
            chance = _normal_cdf((scores[model] - scores[order[0]]) / scale)
            if chance < MIN_CHANCE:
                hopeless[model] = f"its chance of beating {order[0]} is {chance:.2f}"
        room = 1 if stage == last - 1 else max(1, len(pool) // 2)
        return _cut(order, scores, room, hopeless, "predicted final score")

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
        order = _ranked(values)
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
        return _cut(order, values, room, dominated, f"validation score after epoch {stage}")

    def sizes(self, pool: int, stages: int) -> list[int]:
        """At most halving."""
        return halving_sizes(pool, stages)


@dataclass
class Bracket:
    """The state of one halving: pool, rung, values, failures.

    Attributes:
        pool: Models still in, in the order of the last verdict.
        stages: E, epochs of the full budget.
        policy: Who decides.
        rung: The stage now being trained, 1..E.
        observed: Every value recorded.
        failures: Model -> why it failed; ranked last, never trained again.
        dropped: Model -> (rung, reason).
        verdicts: What was decided after rung 1, 2, ...
    """

    pool: tuple[str, ...]
    stages: int
    policy: Policy
    rung: int = 1
    observed: dict[tuple[str, int], float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, tuple[int, str]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the last rung is closed."""
        return self.rung > self.stages

    @property
    def winner(self) -> str:
        """The single model left.

        Raises:
            StageError: Called before the bracket is finished.
        """
        if not self.finished:
            raise StageError(f"halving: no winner yet, rung {self.rung} of {self.stages} is open.")
        return self.pool[0]

    def waiting(self) -> tuple[str, ...]:
        """Models of the pool whose value in this rung is still to come."""
        if self.finished:
            return ()
        done = {model for model, rung in self.observed if rung == self.rung}
        return tuple(m for m in self.pool if m not in done and m not in self.failures)

    def record(self, model: str, rung: int, value: float) -> bool:
        """Take a validation score; return False when it was known (a resumed trial repeats it).

        Raises:
            StageError: The value belongs to no open place of this bracket.
        """
        if (model, rung) in self.observed:
            return False
        if rung != self.rung or model not in self.pool or self.finished:
            raise StageError(
                f"halving: a value of {model} in rung {rung}, but rung {self.rung} trains "
                f"{', '.join(self.pool)}."
            )
        if math.isfinite(value):
            self.observed[(model, rung)] = value
        else:
            self.failures[model] = f"its score in rung {rung} is {value}: training diverged"
        self._close_if_complete()
        return True

    def fail(self, model: str, reason: str) -> None:
        """Take a model out because its trial failed; the rung closes without it."""
        if model in self.pool and model not in self.failures and not self.finished:
            self.failures[model] = reason
            self._close_if_complete()

    def _close_if_complete(self) -> None:
        if self.waiting():
            return
        alive = [model for model in sorted(self.pool) if model not in self.failures]
        for model in set(self.pool) & set(self.failures):
            self.dropped[model] = (self.rung, f"failed: {self.failures[model]}")
        if not alive:
            raise StageError(
                f"halving: every candidate of rung {self.rung} failed: "
                + "; ".join(f"{model}: {self.failures[model]}" for model in sorted(self.pool))
            )
        verdict = self._judge(alive)
        self.verdicts.append(verdict)
        self.dropped |= {model: (self.rung, why) for model, why in verdict.dropped.items()}
        self.pool = verdict.kept
        self.rung += 1

    def _judge(self, alive: list[str]) -> Verdict:
        if self.rung < self.stages and len(alive) > 1:
            return self.policy.judge(alive, self.rung, self.stages, self.observed)
        scores = {model: self.observed[(model, self.rung)] for model in alive}
        return _cut(_ranked(scores), scores, 1, {}, "validation score after the last epoch")


def halving_sizes(pool: int, stages: int) -> list[int]:
    """Models trained at each stage when half is dropped each time: 40, 20, 10, 5, 2."""
    return [max(1, pool >> stage) for stage in range(stages)]


def fit_to_budget(pool: int, stages: int, policy: Policy, budget: int | None) -> int:
    """The largest pool (at most ``pool``) whose worst case stays within ``budget`` epochs.

    Raises:
        InputError: The budget cannot even train one model to the end.
    """
    if budget is None:
        return pool
    for size in range(pool, 0, -1):
        if sum(policy.sizes(size, stages)) <= budget:
            return size
    raise InputError(
        f"halving.budget_epochs: {budget} epochs cannot train one model for {stages} epochs; "
        f"allow at least {stages}."
    )


def replay_rows(bracket: Bracket, rows: Iterable[tuple[str, int, float | None, str]]) -> None:
    """Feed stored rows (model, rung, value or None, error) to a fresh bracket."""
    for model, rung, value, error in rows:
        if value is None:
            bracket.fail(model, error)
        else:
            bracket.record(model, rung, value)


def _ranked(scores: dict[str, float]) -> list[str]:
    """Best first; ties by model id."""
    return sorted(scores, key=lambda model: (-scores[model], model))


def _cut(
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
