"""Budget of a selection at the borders of its rungs.

Before each rung its expected cost is compared with what is left. The leader comes first: the rung
takes as many models as leave enough to train the finalists to the end. If even that is too much,
the finalists alone go on while a rung fits; then the selection ends with the best so far.

Before the first measurement nothing is expected of an unknown cost, and the rung starts. While it
runs, trials that wait are dropped as soon as the next one would not fit any more.

Decisions that depend on time are marks of the run, so that a resumed run repeats them.
"""

import logging
import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.config import StrictModel
from orchestrator.selection.costs.clock import RunClock, slot_price
from orchestrator.selection.costs.config import BudgetConfig
from orchestrator.selection.costs.epoch_times import EpochTimes, times_of_matrix
from orchestrator.selection.halving import Bracket, rung_sizes
from orchestrator.selection.results import JournalRow
from orchestrator.selection.trials.rates import extra_epochs
from orchestrator.storage import RunFolder

if TYPE_CHECKING:
    from orchestrator.selection.config import SelectConfig
    from orchestrator.selection.planning import SelectionPlan

ROUNDING = 1e-6
logger = logging.getLogger(__name__)


class Decision(StrictModel):
    """Models that a rung is limited to."""

    stay: tuple[str, ...]
    """They are trained, or go on; none: the selection ends before the rung."""
    reason: str
    """Reason for the others."""


class BudgetLimit:
    """Decides at the borders of rungs, and among the trials that wait in one.

    Args:
        budget: The limit.
        clock: Seconds and money so far.
        times: Expected seconds; learns from every rung.
        folder: Run with the decisions so far.
        rows: Journal, as it grows.
        steps_per_epoch: Optimizer steps of one epoch.
        entry: Epochs that each model of the first rung trains beside it.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        clock: RunClock,
        times: EpochTimes,
        folder: RunFolder,
        rows: Sequence[JournalRow],
        steps_per_epoch: int,
        entry: float = 0.0,
    ) -> None:
        self.clock, self.times = clock, times
        self._budget, self._folder, self._rows = budget, folder, rows
        self._steps, self._entry = steps_per_epoch, entry
        self._opened = clock.seconds()
        self._trained: tuple[str, ...] = ()
        self._cut = 0

    def left(self) -> float:
        """Rest of the budget in its unit; infinite without one."""
        spent: float = 0
        if self._budget.unit == "epochs":
            spent = sum(row.steps for row in self._rows) / self._steps
        elif self._budget.unit == "steps":
            spent = sum(row.steps for row in self._rows)
        elif self._budget.unit == "seconds":
            spent = self.clock.seconds()
        elif self._budget.unit == "currency":
            spent = sum(a.seconds * a.slots * (a.price or 0.0) for a in self.clock.attempts)
        return self._budget.limit - spent

    @property
    def used(self) -> float | None:
        """Share of the budget that is used up; None without one."""
        return None if self._budget.unit is None else 1.0 - self.left() / self._budget.limit

    def open_rung(self, bracket: Bracket) -> None:
        """Shrink the rung that is about to start, or end the bracket; a resumed run repeats it."""
        rung, trained = bracket.rung, self._trained
        self.times.add_rows(self._rows)
        decision = self._repeat(f"budget rung {rung}")
        self._trained = ()  # the wall time of a rung that a killed run began is not known
        if decision is None:
            if trained:
                seconds = self.clock.seconds() - self._opened
                self.times.add_rung(trained, self.clock.slots, seconds)
            decision = self._decide(bracket)
            self._folder.mark(f"budget rung {rung}", decision.model_dump())
            self._trained = bracket.pool
        _apply(bracket, decision)
        late = self._repeat(f"budget in rung {rung}")
        if late is not None and not bracket.finished and bracket.rung == rung:
            _apply(bracket, late)
        self._opened = self.clock.seconds()
        if not bracket.finished:
            logger.info("rung %d: %s", rung, self.forecast(bracket))

    def check(self, bracket: Bracket, running: Collection[str]) -> None:
        """Drop trials that wait when the next one would not fit any more.

        Args:
            bracket: Not finished.
            running: Models that train at the moment.
        """
        self.clock.tick()
        rung, timed = bracket.rung, self._budget.unit in ("seconds", "currency")
        queue = [model for model in bracket.waiting() if model not in running]
        if not timed or not queue or self._cut == rung:
            return
        self.times.add_rows(self._rows)
        needed = self._cost(queue[:1], self._first(bracket)) or 0.0
        if self.left() > needed:
            return
        started = [m for m in bracket.pool if m in running or (m, rung) in bracket.observed]
        if not started and not bracket.verdicts:
            started = [bracket.pool[0]]  # one epoch of one model, for there to be a result
        self._cut = rung
        decision = Decision(stay=tuple(started), reason=f"{self._reason()} in rung {rung}")
        logger.info("%s: %d models are not started", decision.reason, len(queue))
        self._folder.mark(f"budget in rung {rung}", decision.model_dump())
        _apply(bracket, decision)

    def forecast(self, bracket: Bracket) -> str:
        """Expected rest of the selection, in words."""
        sizes = self._sizes(bracket, len(bracket.pool))
        seconds = self._seconds(bracket.pool, sizes)
        text = f"{len(bracket.pool)} models, at most {sum(sizes)} epochs"
        if seconds is None:
            return f"{text}, seconds unknown until the first epochs are measured"
        price = ""
        if self.clock.price is not None:
            price = f" ({seconds * self.clock.price:.2f} {self.clock.currency})"
        text += f", about {seconds:.0f} s{price} by {self.times.source}"
        return text if self._budget.unit is None else f"{text}; {self._left_in_words()}"

    def _decide(self, bracket: Bracket) -> Decision:
        pool, least = bracket.pool, min(bracket.finalists, len(bracket.pool))
        left = self.left() + ROUNDING
        for size in range(len(pool), least - 1, -1):
            cost = self._total(pool, self._sizes(bracket, size), self._first(bracket))
            if cost is None and left > 0:
                return Decision(stay=pool, reason="")
            if cost is not None and cost <= left:
                return Decision(stay=pool[:size], reason=f"{self._reason()}: {size} models fit")
        for size in range(least, 0, -1):
            cost = self._cost(pool[:size], self._first(bracket))
            if (cost is not None and cost <= left) or (size == 1 and not bracket.verdicts):
                return Decision(stay=pool[:size], reason=f"{self._reason()}: {size} models fit")
        return Decision(stay=(), reason=f"{self._reason()} before rung {bracket.rung}")

    def _first(self, bracket: Bracket) -> float:
        """Epochs of one model in the open rung."""
        return 1.0 + (self._entry if bracket.rung == 1 else 0.0)

    def _total(self, pool: Sequence[str], sizes: Iterable[int], first: float) -> float | None:
        """Cost of all rungs that are left; None: unknown."""
        rungs = enumerate(sizes)
        costs = [self._cost(pool[:size], 1.0 if at else first) for at, size in rungs]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def _cost(self, models: Sequence[str], epochs: float = 1.0) -> float | None:
        """Cost of ``epochs`` of each model in the unit of the budget; None: unknown."""
        if self._budget.unit is None:
            return 0.0
        if self._budget.unit == "epochs":
            return len(models) * epochs
        if self._budget.unit == "steps":
            return len(models) * self._steps * epochs
        seconds = self.times.rung(models, self.clock.slots)
        price = (self.clock.price or 0.0) if self._budget.unit == "currency" else 1.0
        return None if seconds is None else seconds * price * epochs

    def _seconds(self, pool: Sequence[str], sizes: Iterable[int]) -> float | None:
        found = [self.times.rung(pool[:size], self.clock.slots) for size in sizes]
        known = [seconds for seconds in found if seconds is not None]
        return math.fsum(known) if len(known) == len(found) else None

    def _sizes(self, bracket: Bracket, size: int) -> list[int]:
        rungs = bracket.stages - bracket.rung + 1
        return rung_sizes(size, rungs, bracket.policy, bracket.finalists)

    def _repeat(self, step: str) -> Decision | None:
        stored = self._folder.done(step)
        return None if stored is None else Decision.model_validate(stored)

    def _reason(self) -> str:
        return f"budget.{self._budget.unit} of {self._budget.limit:g}"

    def _left_in_words(self) -> str:
        return f"{max(0.0, self.left()):.4g} of {self._budget.limit:g} {self._budget.unit} left"


def _apply(bracket: Bracket, decision: Decision) -> None:
    if not decision.stay:
        bracket.end(decision.reason)
    elif set(bracket.pool) - set(decision.stay):
        bracket.shrink(decision.stay, decision.reason)


def open_limit(
    config: "SelectConfig",
    plan: "SelectionPlan",
    folder: RunFolder,
    rows: Sequence[JournalRow],
    slots: float,
) -> BudgetLimit:
    """Start the clock of a try, with the times that the matrix knows."""
    price = slot_price(config.cluster, config.prices)
    return BudgetLimit(
        config.budget,
        RunClock(folder, slots, price, config.prices.currency),
        times_of_matrix(plan.matrix, plan.packages, len(plan.task.train)),
        folder,
        rows,
        plan.steps_per_epoch,
        extra_epochs(len(config.halving.learning_rates or ()), plan.steps_per_epoch),
    )
