"""Successive halving as a Ray Tune scheduler: strictly synchronous rungs, pause and resume.

`halving.Bracket` decides; this file translates. A trial that has trained its epoch is paused. When
the last trial of the rung reports, losers are stopped and the others continue from their
checkpoints in reused actors. Each value is in the journal, on disk, before it counts.

Differences from Tune's own HyperBand: rungs never deadlock on `max_t` or on the number of slots
(ray#6780, ray#37605); a failing trial closes its rung instead of keeping it open; survivors do not
depend on concurrency.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from orchestrator.errors import OrchestratorError
from orchestrator.selection.costs.limits import BudgetLimit
from orchestrator.selection.halving import Bracket
from orchestrator.selection.results import EpochResult, JournalRow
from orchestrator.selection.trials.failures import COLORS
from orchestrator.selection.trials.journal import Journal
from orchestrator.training.events import EPOCH_RESULT

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

logger = logging.getLogger(__name__)


class HalvingScheduler(TrialScheduler):
    """Runs one bracket. Trials carry their model's id in ``config["trial"]``.

    Args:
        bracket: The state, rebuilt from the journal when a run continues.
        journal: Finished epochs and failures are appended to it.
        limit: Drops trials that wait when the budget ends; None: there is none.

    Attributes:
        error: What ended the bracket; the caller raises it, because Tune swallows exceptions.
    """

    # Tune would buffer results and train a second epoch before the first is judged.
    _supports_buffered_results = False

    def __init__(
        self, bracket: Bracket, journal: Journal, limit: BudgetLimit | None = None
    ) -> None:
        super().__init__()
        self.error: OrchestratorError | None = None
        self._bracket = bracket
        self._journal = journal
        self._limit = limit
        self._erring: list[Trial] = []

    def is_open(self) -> bool:
        """Return whether the bracket may still resume a trial."""
        self.settle()
        return self.error is None and not self._bracket.finished

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Nothing to prepare: the bracket knows its pool."""

    def on_trial_result(
        self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]
    ) -> str:
        """Record an epoch; the trial continues, or waits for its rung."""
        row = self._record(result)
        bracket = self._bracket
        survives = trial.config["trial"] in bracket.waiting() and row.rung < bracket.rung
        # A loser is paused too, and stopped later by `choose_trial_to_run`: by then a survivor
        # waits for its actor. Tune would otherwise end the actor and start a new process.
        return str(TrialScheduler.CONTINUE if survives else TrialScheduler.PAUSE)

    def on_trial_complete(
        self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]
    ) -> None:
        """Record the last epoch: Tune reports it only here, because it carries ``done``."""
        if EPOCH_RESULT in result:
            self._record(result)

    def on_trial_error(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Remember the trial: Tune may recover it. If not, `settle` removes it."""
        self._erring.append(trial)

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Nothing to do: the paused loser was stopped by this scheduler."""

    def choose_trial_to_run(self, tune_controller: "TuneController") -> Trial | None:
        """Return the next idle trial of the open rung, or stop the losers if there is none."""
        trials = tune_controller.get_trials()
        self.settle()
        if self.error is not None:
            tune_controller.request_stop_experiment()
            return None
        if self._limit is not None and not self._bracket.finished:
            running = {t.config["trial"] for t in trials if t.status == Trial.RUNNING}
            self._guarded(functools.partial(self._limit.check, self._bracket, running))
        waiting = set(self._bracket.waiting())
        chosen = next((t for t in trials if _has(t, Trial.PENDING, waiting)), None)
        chosen = chosen or next((t for t in trials if _has(t, Trial.PAUSED, waiting)), None)
        alive = set() if self._bracket.finished else set(self._bracket.pool)
        losers = {trial.config["trial"] for trial in trials} - alive
        if chosen is None:
            for trial in trials:
                if _has(trial, Trial.PAUSED, losers) or _has(trial, Trial.PENDING, losers):
                    tune_controller.stop_trial(trial)
        return chosen

    def settle(self) -> None:
        """Remove trials that failed finally from the bracket, with the reason."""
        for trial in self._erring:
            model = trial.config["trial"]
            if trial.status == Trial.ERROR and model not in self._bracket.failures:
                reason = _reason(trial)
                logger.warning("trial %s failed: %s", model, reason)
                rung = self._bracket.rung
                row = JournalRow(trial=model, rung=rung, validation=None, error=reason)
                self._journal.append(row)
                self._guarded(functools.partial(self._bracket.fail, model, reason))

    def debug_string(self) -> str:
        """One line for Tune's own status output."""
        bracket = self._bracket
        return f"Halving: rung {bracket.rung}/{bracket.stages}, pool {', '.join(bracket.pool)}"

    def _record(self, result: dict[str, Any]) -> JournalRow:
        row = EpochResult.model_validate_json(result[EPOCH_RESULT]).journal_row()
        self._journal.append(row)
        if row.error:
            logger.warning("trial %s failed: %s", row.trial, row.error)
            self._guarded(functools.partial(self._bracket.fail, row.trial, row.error))
        elif row.validation is not None:
            self._guarded(
                functools.partial(self._bracket.record, row.trial, row.rung, row.validation)
            )
        return row

    def _guarded(self, decide: Callable[[], object]) -> None:
        """Store what the bracket raises: Tune would turn it into a failure of one trial."""
        try:
            decide()
        except OrchestratorError as error:
            self.error = self.error or error


def _has(trial: Trial, status: str, models: set[str]) -> bool:
    return trial.status == status and trial.config["trial"] in models


def _reason(trial: Trial) -> str:
    """Exception and message: the last line of the trial's traceback."""
    file = Path(trial.error_file) if trial.error_file else None
    text = file.read_text().strip() if file and file.is_file() else ""
    return COLORS.sub("", text.splitlines()[-1]).strip() if text else "unknown error"
