"""Learning rate of a candidate: each of a few rates is tried on the first steps of the first epoch.

Every rate sees the same rows in the same order for a quarter of the first epoch, or for the whole
first rung where that is shorter (`steps_of_a_rate`). The best on validation rows goes on from its
own state, so that its steps are part of the first rung; the steps of the others are the price of
the choice. Among equal scores the lower validation loss is better: after a few steps all rates may
give every row the same answer. What each rate has reached is committed: a killed trial trains no
rate twice. A rate that diverges is not chosen.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import StageError
from orchestrator.selection.results import EpochResult, JournalRow
from orchestrator.selection.trials.failures import reason_of, repeats
from orchestrator.selection.trials.starting import clock
from orchestrator.storage import staged, verify_folder

if TYPE_CHECKING:
    from orchestrator.training.finetune.finetuner import FineTuner

SHARE = 4
"""A rate is tried on 1 / SHARE of the first epoch."""
MANIFEST = "rate.json"
TRAINER = "trainer"
logger = logging.getLogger(__name__)


def steps_of_a_rate(steps_per_epoch: int, first_rung: int | None = None) -> int:
    """Optimizer steps in which one rate is tried.

    Args:
        steps_per_epoch: Optimizer steps of an epoch.
        first_rung: Those of the first rung; None: it is a whole epoch.
    """
    quarter = max(1, steps_per_epoch // SHARE)
    return quarter if first_rung is None else min(quarter, first_rung)


def extra_epochs(rates: int, steps_per_epoch: int | None = None, first: int | None = None) -> float:
    """Epochs that one candidate trains beside its first rung, for the choice among rates.

    Args:
        rates: How many there are; 0: none is tried.
        steps_per_epoch: Optimizer steps of an epoch; None: not known yet, a rate takes a quarter.
        first: Optimizer steps of the first rung; None: it is a whole epoch.
    """
    if rates == 0:
        return 0.0
    if steps_per_epoch is None:
        return (rates - 1) / SHARE
    return (rates - 1) * steps_of_a_rate(steps_per_epoch, first) / steps_per_epoch


class RateTrials:
    """Trials of learning rates for one candidate.

    Args:
        state: Folder of the candidate's training state; the rates' states lie beside it.
        trial: Trial id.
        rates: The rates.
        make: Returns the training at its first step, with a rate.
        goodness: Returns a score on the scale of decisions; None: as it is.
        first_rung: Optimizer steps of the first rung; None: it is a whole epoch.

    Attributes:
        loading_s: Seconds in which the best training was built again.
    """

    def __init__(
        self,
        state: Path,
        trial: str,
        rates: Sequence[float],
        make: "Callable[[float], FineTuner]",
        goodness: Callable[[float], float | None],
        first_rung: int | None = None,
    ) -> None:
        self._folder = state.with_name(f"{state.name}~rates")
        self._trial, self._rates, self._make, self._goodness = trial, rates, make, goodness
        self._first_rung, self.loading_s = first_rung, 0.0
        self._last: tuple[float, FineTuner] | None = None

    def best(self) -> "tuple[FineTuner, tuple[JournalRow, ...]]":
        """Try the rates that were not tried yet; return the best one's training, and all rows.

        Raises:
            StageError: Every rate failed.
        """
        rows = tuple(self._row(place, rate) for place, rate in enumerate(self._rates))
        sound = [row for row in rows if row.decides is not None]
        if not sound:
            reasons = "; ".join(f"{row.learning_rate:g}: {row.error}" for row in rows)
            raise StageError(f"every learning rate failed: {reasons}")
        chosen = max(sound, key=_order)
        rate = chosen.learning_rate or 0.0
        journal = tuple(row.journal_row() for row in rows)
        logger.info("%s: learning rate %g of %d", self._trial, rate, len(rows))
        if self._last is not None and self._last[0] == rate:
            return self._last[1], journal
        begun = time.perf_counter()
        tuner = self._make(rate)
        tuner.load(self._place(rows.index(chosen)) / TRAINER)
        self.loading_s = time.perf_counter() - begun
        return tuner, journal

    def tried(self) -> tuple[JournalRow, ...]:
        """Rates whose trials are committed."""
        places = [self._place(number) for number in range(len(self._rates))]
        done = (place for place in places if (place / MANIFEST).exists())
        return tuple(_read(place).journal_row() for place in done)

    def remove(self) -> None:
        """Remove the states of the rates, once the first epoch is committed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, number: int) -> Path:
        return self._folder / str(number)

    def _row(self, number: int, rate: float) -> EpochResult:
        folder = self._place(number)
        if (folder / MANIFEST).exists():
            return _read(folder)
        self._last = None  # one training in memory at a time
        try:
            row, tuner = self._train(rate)
        except Exception as error:
            if not repeats(error):
                raise
            row, tuner = self._result(rate, validation=None, error=reason_of(error)), None
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staged(folder, {"row": row.model_dump()}, MANIFEST) as draft:
            if tuner is not None:
                (draft / TRAINER).mkdir()
                tuner.save(draft / TRAINER)
                self._last = rate, tuner
        return row

    def _train(self, rate: float) -> "tuple[EpochResult, FineTuner]":
        begun = time.perf_counter()
        tuner = self._make(rate)
        startup, started = clock.seconds(begun), time.perf_counter()
        tuner.train_epoch(steps_of_a_rate(tuner.steps_per_epoch, self._first_rung))
        trained = time.perf_counter()
        measured = tuner.evaluate("validation")
        score, loss = measured[tuner.watched], measured["loss"]
        sound = math.isfinite(score) and math.isfinite(loss)
        row = self._result(
            rate,
            validation=score if sound else None,
            goodness=self._goodness(score) if sound else None,
            loss=loss if sound else None,
            error="" if sound else f"training diverged (loss {loss:g})",
            steps=tuner.steps_done,
            seconds=time.perf_counter() - started,
            evaluation_s=time.perf_counter() - trained,
            startup_s=startup,
        )
        return row, tuner

    def _result(self, rate: float, **fields: float | str | None) -> EpochResult:
        known = {"trial": self._trial, "rung": 1, "phase": "learning rate", "learning_rate": rate}
        return EpochResult.model_validate({**known, "finished_at": time.time(), **fields})


def _order(row: EpochResult) -> tuple[float, float]:
    """Score, then loss; a state of an earlier release has no loss."""
    return row.decides or 0.0, -math.inf if row.loss is None else -row.loss


def _read(folder: Path) -> EpochResult:
    return EpochResult.model_validate(verify_folder(folder, MANIFEST)["row"])
