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
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.errors import OrchestratorError
from orchestrator.selection.costs.limits import BudgetLimit
from orchestrator.selection.halving import Bracket
from orchestrator.selection.results import EpochResult, JournalRow
from orchestrator.selection.trials.failures import COLORS
from orchestrator.selection.trials.fine_tuning import TRIAL, TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.source import TrialSource
from orchestrator.selection.trials.threads import is_busy, lend
from orchestrator.training.events import EPOCH_RESULT, NewTrial

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

logger = logging.getLogger(__name__)

MANY_ACTORS = 10_000
"""More than any cluster has; resources limit how many there are."""


class HalvingScheduler(TrialScheduler):
    """Runs screening and one bracket. Trials carry their name in ``config["trial"]``.

    Args:
        source: Makes the trials; its bracket is rebuilt from the journal when a run continues.
        journal: Finished epochs and failures are appended to it.
        limit: Drops trials that wait when the budget ends; None: there is none.
        on_epoch: Called with (model, result) of each epoch, after it was judged.
        observe: Called after each result and each failure.
        slots: Slots of one host that survivors share when they are fewer; 1: they never do.

    Attributes:
        error: What ended the run; the caller raises it, because Tune swallows exceptions.
    """

    # Tune would buffer results and train a second epoch before the first is judged.
    _supports_buffered_results = False

    def __init__(
        self,
        source: TrialSource,
        journal: Journal,
        limit: BudgetLimit | None = None,
        on_epoch: Callable[[str, EpochResult], None] | None = None,
        observe: Callable[[], None] | None = None,
        slots: int = 1,
    ) -> None:
        super().__init__()
        self.error: OrchestratorError | None = None
        self._source, self._journal = source, journal
        self._limit, self._on_epoch, self._observe = limit, on_epoch, observe
        self._slots = slots
        self._erring: dict[str, Trial] = {}
        self._holds_actors = False
        self._loans: set[tuple[str, int, int]] = set()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune snapshots its schedulers; a run continues from our journal instead."""
        return FIFOScheduler, ()

    def next_trial(self) -> NewTrial | None:
        """Return the next trial to be started; None: none at this moment."""
        return self._source.next_trial()

    def is_open(self) -> bool:
        """Return whether a trial may still be started or resumed."""
        self.settle()
        self._guarded(self._source.advance)
        return self.error is None and not self._source.finished

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Let Tune hold all idle actors.

        It holds as many as trials are staged at that moment, and one at least. Between screening
        and trials, and between rungs, none is staged: it would end processes that are needed again.
        Tune has no setting for it; all trials take the same resources, so no other trial can wait
        for what an idle actor holds.
        """
        if not self._holds_actors:
            self._holds_actors = True
            cache = vars(tune_controller)["_tune_controller"]._actor_cache
            cache.increase_max(trial.placement_group_factory, by=MANY_ACTORS)

    def on_trial_result(
        self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]
    ) -> str:
        """Record an epoch; the trial continues, or waits for its rung."""
        row, bracket = self._record(trial, result), self._source.bracket
        survives = row and bracket and row.trial in self._next() and row.rung < bracket.rung
        if survives and with_slots(trial, self._share()):
            survives = False  # it goes on at once, with its new payload
        # A loser is paused too, and stopped later by `choose_trial_to_run`: by then a survivor
        # waits for its actor. Tune would otherwise end the actor and start a new process.
        return str(TrialScheduler.CONTINUE if survives else TrialScheduler.PAUSE)

    def on_trial_complete(
        self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]
    ) -> None:
        """Record a last epoch or a single step: Tune reports what carries ``done`` only here."""
        if EPOCH_RESULT in result:
            self._record(trial, result)

    def on_trial_error(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Remember the trial: Tune may recover it. If not, `settle` removes it."""
        self._erring[trial.config["trial"]] = trial

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Nothing to do: the paused loser was stopped by this scheduler."""

    def choose_trial_to_run(self, tune_controller: "TuneController") -> Trial | None:
        """Return the next idle trial of the open rung, or stop the losers if there is none."""
        trials = tune_controller.get_trials()
        self.settle()
        if self.error is not None:
            tune_controller.request_stop_experiment()
            return None
        bracket = self._source.bracket
        if self._limit is not None and bracket is not None and not bracket.finished:
            running = {t.config["trial"] for t in trials if t.status == Trial.RUNNING}
            self._guarded(functools.partial(self._limit.check, bracket, running))
        self._guarded(self._source.advance)
        waiting = self._source.waiting()
        chosen = _first(trials, Trial.PENDING, waiting) or _first(trials, Trial.PAUSED, waiting)
        if chosen is None and bracket is not None:
            alive = set() if bracket.finished else set(bracket.pool)
            losers = {trial.config["trial"] for trial in trials} - alive
            for trial in trials:
                if _has(trial, Trial.PAUSED, losers) or _has(trial, Trial.PENDING, losers):
                    tune_controller.stop_trial(trial)
        if chosen is not None:
            with_slots(chosen, self._share())
        elif bracket is not None and not bracket.finished:
            self._lend(trials, bracket)
        return chosen

    def settle(self) -> None:
        """Take trials that failed finally out of what is waited for, with the reason."""
        for name, trial in list(self._erring.items()):
            if trial.status != Trial.ERROR:
                continue  # Tune may recover it
            del self._erring[name]
            bracket, phase, reason = self._source.bracket, self._source.phase, _reason(trial)
            if phase is not None and name in phase.waiting:
                self._guarded(functools.partial(phase.fail, name, reason))
            elif bracket is not None and name in bracket.pool and name not in bracket.failures:
                logger.warning("trial %s failed: %s", name, reason)
                row = JournalRow(trial=name, rung=bracket.rung, validation=None, error=reason)
                self._journal.append(row)
                self._guarded(functools.partial(bracket.fail, name, reason))
            self._observed()

    def debug_string(self) -> str:
        """One line for Tune's own status output."""
        return f"Selection: waiting for {', '.join(self._source.waiting())}"

    def _record(self, trial: Trial, result: dict[str, Any]) -> JournalRow | None:
        """Record a result; return it as a row if it is an epoch."""
        name, text, phase = trial.config["trial"], result[EPOCH_RESULT], self._source.phase
        if phase is not None and name in phase.waiting:
            self._guarded(functools.partial(phase.record, name, text))
            self._guarded(self._source.advance)
            self._observed()
            return None
        bracket = self._source.bracket
        if bracket is None:  # Tune repeats a result of the screening
            return None
        found = EpochResult.model_validate_json(text)
        row = found.journal_row()
        for tried in (*found.rates, row):
            self._journal.append(tried)
        if row.error:
            logger.warning("trial %s failed: %s", row.trial, row.error)
            self._guarded(functools.partial(bracket.fail, row.trial, row.error))
        elif row.decides is not None:
            self._guarded(functools.partial(bracket.record, row.trial, row.rung, row.decides))
        if self._on_epoch is not None:
            self._on_epoch(name, found)
        self._observed()
        return row

    def _observed(self) -> None:
        if self._observe is not None:
            self._observe()

    def _share(self) -> int:
        """Slots per trial of the open rung; 1 on a busy host, where threads would wait."""
        bracket = self._source.bracket
        if self._slots == 1 or bracket is None or is_busy(self._slots):
            return 1
        return max(1, self._slots // max(1, len(bracket.pool)))

    def _next(self) -> tuple[str, ...]:
        """Trials of the open rung that start at once; all of them if the slots are not known."""
        waiting = self._source.waiting()
        return waiting if self._slots == 1 else waiting[: self._slots]

    def _lend(self, trials: list[Trial], bracket: Bracket) -> None:
        """Lend slots for which no trial waits to those of the rung that still train."""
        waiting = bracket.waiting()
        running = [t for t in trials if _has(t, Trial.RUNNING, {*waiting})]
        slots = self._slots // max(1, len(running))
        if slots == 1 or len(running) < len(waiting) or is_busy(self._slots):
            return
        for trial in running:
            payload = TrialPayload.model_validate_json(trial.config["payload"])
            loan = (payload.trial, bracket.rung, slots)
            if payload.slots < slots and loan not in self._loans:
                self._loans.add(loan)
                lend(payload.state, bracket.rung, slots)

    def _guarded(self, decide: Callable[[], object]) -> None:
        """Store what the bracket raises: Tune would turn it into a failure of one trial."""
        try:
            decide()
        except OrchestratorError as error:
            self.error = self.error or error


def with_slots(trial: Trial, slots: int) -> bool:
    """Tell a trial that is not running how many slots it may use; return whether that is new."""
    if trial.config["target"] != TRIAL:
        return False
    payload = TrialPayload.model_validate_json(trial.config["payload"])
    changed = payload.model_copy(update={"slots": slots})
    trial.config["payload"] = changed.model_dump_json()
    return changed != payload


def _first(trials: list[Trial], status: str, names: tuple[str, ...]) -> Trial | None:
    """Return the trial of the first of the names that has one in this state."""
    found = {trial.config["trial"]: trial for trial in trials if trial.status == status}
    return next((found[name] for name in names if name in found), None)


def _has(trial: Trial, status: str, models: set[str]) -> bool:
    return trial.status == status and trial.config["trial"] in models


def _reason(trial: Trial) -> str:
    """Exception and message: the last line of the trial's traceback."""
    file = Path(trial.error_file) if trial.error_file else None
    text = file.read_text().strip() if file and file.is_file() else ""
    return COLORS.sub("", text.splitlines()[-1]).strip() if text else "unknown error"
