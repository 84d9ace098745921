"""Synchronous successive halving (phase two): decisions on complete rungs only.

A rung is one epoch of every model still in the pool; the first may be shorter (`rungs.Rungs`).
`Bracket` holds the state. The Tune scheduler,
a resumed run and `replay` feed the same class, so that a replay decides as a run. Values may arrive
in any order: a decision reads a complete rung in the order of model ids, so that the survivors do
not depend on concurrency.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.errors import InputError, StageError
from orchestrator.selection.policies.base import Judge, Verdict, cut, ranked
from orchestrator.selection.results import JournalRow
from orchestrator.selection.ties.tie_breaker import TieBreaker

if TYPE_CHECKING:
    from orchestrator.selection.planning import SelectionPlan

ROUNDING = 1e-6
"""Sums of parts of epochs are rounded."""


@dataclass
class Bracket:
    """The state of one halving: pool, rung, values, failures.

    Attributes:
        pool: Surviving models, in the order of the last verdict.
        stages: Rungs of the full budget.
        policy: Decides between rungs.
        ties: Settles ties where one candidate is left; None: the leader stays.
        finalists: Models that stay to the end at least, if so many do not fail.
        border: Called before each rung after the first; it may `shrink` the rung or `end` here.
        score_of: Returns a value in the unit of the metric, for the reasons; None: it is in it.
        rung: The rung now being trained, from 1.
        observed: Every value recorded.
        failures: Model to why it failed; ranked last, never trained again.
        dropped: Model to (rung, reason).
        verdicts: Decisions after rung 1, 2, ...
        ended: Reason to end before the last rung; empty otherwise.
    """

    pool: tuple[str, ...]
    stages: int
    policy: Judge
    ties: TieBreaker | None = None
    finalists: int = 1
    border: "Callable[[Bracket], None] | None" = None
    score_of: Callable[[float], float] | None = None
    rung: int = 1
    observed: dict[tuple[str, int], float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, tuple[int, str]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    ended: str = ""

    @property
    def finished(self) -> bool:
        """Whether the last rung is closed, or the bracket ended before."""
        return self.rung > self.stages or bool(self.ended)

    @property
    def winner(self) -> str:
        """The best of the finalists.

        Raises:
            StageError: Called before the bracket is finished.
        """
        return self.winners[0]

    @property
    def winners(self) -> tuple[str, ...]:
        """The finalists, best first.

        Raises:
            StageError: Called before the bracket is finished.
        """
        if not self.finished:
            raise StageError(f"halving: no winner yet, rung {self.rung} of {self.stages} is open.")
        return self.pool[: self.finalists]

    def waiting(self) -> tuple[str, ...]:
        """Models of the pool that have no value in this rung yet."""
        if self.finished:
            return ()
        done = {model for model, rung in self.observed if rung == self.rung}
        return tuple(m for m in self.pool if m not in done and m not in self.failures)

    def record(self, model: str, rung: int, value: float) -> bool:
        """Record a validation score.

        Returns:
            False if it is known (a resumed trial repeats it), or comes from a model that the open
            or the last rung was shrunk by.

        Raises:
            StageError: The value is not one of the open rung.
        """
        if (model, rung) in self.observed or self.dropped.get(model, (0, ""))[0] == rung:
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
        """Remove a model whose trial failed; the rung closes without it."""
        if model in self.pool and model not in self.failures and not self.finished:
            self.failures[model] = reason
            self._close_if_complete()

    def shrink(self, stay: Iterable[str], reason: str) -> None:
        """Drop models from the open rung that have not been trained in it.

        Args:
            stay: Models of the pool that stay; those with a value in this rung stay anyway.
            reason: Reason for the others, in words.
        """
        staying = {*stay} | set(self.pool) - set(self.waiting())
        for model in set(self.pool) - staying:
            self.dropped[model] = (self.rung, reason)
        self.pool = tuple(model for model in self.pool if model in staying)
        self._close_if_complete()

    def end(self, reason: str) -> None:
        """End before the open rung: the best by the last verdict wins.

        Raises:
            StageError: No rung is complete.
        """
        if not self.verdicts:
            raise StageError(f"halving: {reason}, and no model has been trained for a rung.")
        for model in self.pool[self.finalists :]:
            self.dropped[model] = (self.rung - 1, reason)
        self.pool, self.ended = self.pool[: self.finalists], reason

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
        if self.ties is not None and len(verdict.kept) == 1 < len(alive):
            verdict = self.ties.settle(verdict, self.rung, self.observed)
        self.verdicts.append(verdict)
        for model, why in verdict.dropped.items():
            text = why if isinstance(why, str) else why.in_words(self.score_of or float)
            self.dropped[model] = (self.rung, text)
        self.pool = verdict.kept
        self.rung += 1
        if self.border is not None and not self.finished:
            self.border(self)

    def _judge(self, alive: list[str]) -> Verdict:
        room = min(self.finalists, len(alive))
        if self.rung == self.stages or len(alive) == room:
            scores = {model: self.observed[(model, self.rung)] for model in alive}
            return cut(ranked(scores), scores, room, {}, "validation score after the last epoch")
        verdict = self.policy.judge(alive, self.rung, self.stages, self.observed)
        if len(verdict.kept) >= room:
            return verdict
        rest = [model for model in ranked(verdict.scores) if model not in verdict.kept]
        kept = (*verdict.kept, *rest[: room - len(verdict.kept)])
        dropped = {model: why for model, why in verdict.dropped.items() if model not in kept}
        return Verdict(kept, dropped, verdict.scores)


def planned_bracket(
    plan: "SelectionPlan",
    pool: tuple[str, ...],
    ties: TieBreaker | None = None,
    finalists: int = 1,
    border: Callable[[Bracket], None] | None = None,
) -> Bracket:
    """Begin the halving of a plan; arguments as of `Bracket`."""
    score_of = plan.asked.score_of
    return Bracket(pool, plan.rungs.count, plan.judge, ties, finalists, border, score_of)


def rung_sizes(pool: int, stages: int, policy: Judge, finalists: int = 1) -> list[int]:
    """Largest number of models in each rung when ``finalists`` of them stay to the end."""
    return [max(size, min(finalists, pool)) for size in policy.sizes(pool, stages)]


def fit_to_budget(
    pool: int,
    stages: int,
    policy: Judge,
    budget: int | None,
    *,
    finalists: int = 1,
    unit: str = "epochs",
    price: int = 1,
    shares: Sequence[float] | None = None,
) -> int:
    """The largest pool, at most ``pool``, whose worst-case cost is within the budget.

    Args:
        pool: Models that would be trained without a budget.
        stages: Rungs of a full training.
        policy: Decides between rungs.
        budget: The limit; None: there is none.
        finalists: Models that are trained to the end.
        unit: What the budget counts.
        price: Units of one epoch of one model.
        shares: Epochs of one model in each rung, in the first one with the choice of its learning
            rate; None: one each.

    Raises:
        InputError: The budget is too small to train the finalists to the end.
    """
    if budget is None:
        return pool
    parts = [1.0] * stages if shares is None else shares
    for size in range(pool, finalists - 1, -1):
        sizes = rung_sizes(size, stages, policy, finalists)
        epochs = math.fsum(n * part for n, part in zip(sizes, parts, strict=True))
        if price * epochs <= budget + ROUNDING:
            return size
    models = "one model" if finalists == 1 else f"{finalists} models"
    raise InputError(
        f"budget.{unit}: {budget} {unit} cannot train {models} for {sum(parts):g} epochs; "
        f"allow at least {math.ceil(price * sum(parts) * finalists - ROUNDING)}."
    )


def replay_rows(bracket: Bracket, rows: Iterable[JournalRow]) -> None:
    """Feed the rows of a journal to a fresh bracket."""
    for row in rows:
        if row.phase != "rung":
            continue
        if row.decides is None:
            bracket.fail(row.trial, row.error)
        else:
            bracket.record(row.trial, row.rung, row.decides)
