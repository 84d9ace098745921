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
from orchestrator.selection.costs.epoch_times import EpochTimes
from orchestrator.selection.costs.forecast import planned_times
from orchestrator.selection.halving import Bracket, rung_sizes
from orchestrator.selection.results import JournalRow
from orchestrator.selection.rungs import Rungs, whole
from orchestrator.selection.target_rows import RowCounts
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
        rungs: What is trained in each rung, with the steps of an epoch.
        rates: Learning rates that each model of the first rung tries.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        clock: RunClock,
        times: EpochTimes,
        folder: RunFolder,
        rows: Sequence[JournalRow],
        rungs: Rungs,
        rates: int = 0,
    ) -> None:
        self.clock, self.times = clock, times
        self._budget, self._folder, self._rows = budget, folder, rows
        self._rungs, self._rates = rungs, rates
        self._opened = clock.seconds()
        self._trained: tuple[str, ...] = ()
        self._cut = 0

    @property
    def _steps(self) -> int:
        assert self._rungs.steps_per_epoch is not None  # rows are read before a run begins
        return self._rungs.steps_per_epoch

    def left(self) -> float:
        """Rest of the budget in its unit; infinite without one."""
        spent: float = 0
        if self._budget.unit in ("epochs", "steps"):
            spent = sum(row.steps for row in self._rows)
            spent /= self._steps if self._budget.unit == "epochs" else 1
        elif self._budget.unit == "seconds":
            spent = self.clock.seconds()
        elif self._budget.unit == "currency":
            spent = sum(a.seconds * a.slots * (a.price or 0.0) for a in self.clock.attempts)
        return self._budget.limit - spent

    @property
    def used(self) -> float | None:
        """Share of the budget that is used up; None without one."""
        return None if self._budget.unit is None else 1.0 - self.left() / self._budget.limit

    @property
    def timed(self) -> bool:
        """Whether seconds or money end the run: the trials of a rung then start best first."""
        return self._budget.unit in ("seconds", "currency")

    def open_rung(self, bracket: Bracket) -> None:
        """Shrink the rung that is about to start, or end the bracket; a resumed run repeats it."""
        rung, trained = bracket.rung, self._trained
        self.times.add_rows(self._rows)
        decision = self._repeat(f"budget rung {rung}")
        self._trained = ()  # the wall time of a rung that a killed run began is not known
        if decision is None:
            if trained:
                seconds = self.clock.seconds() - self._opened
                work = dict.fromkeys(trained, 0.0)
                for row in self._rows:
                    if row.rung == rung - 1 and row.trial in work:
                        started = row.startup_s if row.phase == "learning rate" else 0.0
                        work[row.trial] += row.seconds + started
                self.times.add_rung(work, self.clock.slots, seconds)
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
        rung = bracket.rung
        queue = [model for model in bracket.waiting() if model not in running]
        if not self.timed or not queue or self._cut == rung:
            return
        self.times.add_rows(self._rows)
        needed = self._cost(queue[:1], rung) or 0.0
        if self.left() > needed:
            return
        started = [m for m in bracket.pool if m in running or (m, rung) in bracket.observed]
        if not started and not bracket.verdicts:
            started = [bracket.pool[0]]  # one rung of one model, for there to be a result
        self._cut = rung
        decision = Decision(stay=tuple(started), reason=f"{self._reason()} in rung {rung}")
        logger.info("%s: %d models are not started", decision.reason, len(queue))
        self._folder.mark(f"budget in rung {rung}", decision.model_dump())
        _apply(bracket, decision)

    def forecast(self, bracket: Bracket) -> str:
        """Expected rest of the selection, in words."""
        rungs = list(enumerate(self._sizes(bracket, len(bracket.pool)), start=bracket.rung))
        found = [self._seconds(bracket.pool[:size], rung) for rung, size in rungs]
        seconds = None if None in found else math.fsum(each or 0.0 for each in found)
        epochs = whole(math.fsum(size * self._rungs.share(rung) for rung, size in rungs))
        text = f"{len(bracket.pool)} models, at most {epochs} epochs"
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
            cost = self._total(pool, self._sizes(bracket, size), bracket.rung)
            if cost is None and left > 0:
                return Decision(stay=pool, reason="")
            if cost is not None and cost <= left:
                return Decision(stay=pool[:size], reason=f"{self._reason()}: {size} models fit")
        for size in range(least, 0, -1):
            cost = self._cost(pool[:size], bracket.rung)
            if (cost is not None and cost <= left) or (size == 1 and not bracket.verdicts):
                return Decision(stay=pool[:size], reason=f"{self._reason()}: {size} models fit")
        return Decision(stay=(), reason=f"{self._reason()} before rung {bracket.rung}")

    def _total(self, pool: Sequence[str], sizes: Iterable[int], rung: int) -> float | None:
        """Cost of the open rung and all after it; None: unknown."""
        costs = [self._cost(pool[:size], at) for at, size in enumerate(sizes, start=rung)]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def _cost(self, models: Sequence[str], rung: int) -> float | None:
        """Cost of a rung in the unit of the budget; None: unknown."""
        if self._budget.unit is None:
            return 0.0
        if self._budget.unit == "epochs":
            return len(models) * self._epochs(rung)
        if self._budget.unit == "steps":
            return len(models) * self._steps * self._epochs(rung)
        seconds = self._seconds(models, rung)
        price = (self.clock.price or 0.0) if self._budget.unit == "currency" else 1.0
        return None if seconds is None else seconds * price

    def _epochs(self, rung: int) -> float:
        """Epochs of one model in a rung; in the first one with the choice of its learning rate."""
        rates = self._rates if rung == 1 else 0
        return self._rungs.share(rung) + extra_epochs(rates, self._steps, self._rungs.first_steps)

    def _seconds(self, models: Sequence[str], rung: int) -> float | None:
        starts = 1 + (self._rates if rung == 1 else 0)
        return self.times.rung(models, self.clock.slots, self._epochs(rung), starts)

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
        planned_times(config, plan.matrix, plan.packages, RowCounts.of(plan.task)),
        folder,
        rows,
        plan.rungs,
        len(config.halving.learning_rates or ()),
    )
