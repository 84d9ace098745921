"""Phase after the last rung: packages of finalists that the budget cut off, or the salvage."""

import logging
from collections.abc import Callable

from orchestrator.errors import StageError
from orchestrator.selection.halving import Bracket
from orchestrator.selection.planning import SelectionPlan
from orchestrator.selection.results import EpochResult
from orchestrator.selection.salvage.merging import same_base
from orchestrator.selection.salvage.results import Salvage
from orchestrator.selection.salvage.trial import Donor, SalvagePayload, committed_salvage
from orchestrator.selection.trials.fine_tuning import TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.runner import merged_folder
from orchestrator.training.events import NewTrial
from orchestrator.zoo import Zoo

FINISH, SALVAGE = "finish ", "salvage "
"""Beginnings of the names of trials; the model's id follows."""
FINISH_TRIAL = "orchestrator.selection.trials.single:FinishTrial"
SALVAGE_TRIAL = "orchestrator.selection.trials.single:MergeTrial"
logger = logging.getLogger(__name__)


class Closing:
    """Trials of one step that make the finalists' packages what is published.

    Args:
        bracket: Finished.
        plan: Candidates and target.
        journal: Of the run.
        payload: Makes the trial of a model from an epoch on.
        salvage: Whether losers of the winner's base are merged into it.

    Attributes:
        salvaged: Merges that were measured; None: there were none.
        waiting: Names of the trials whose results are missing.
    """

    def __init__(
        self,
        bracket: Bracket,
        plan: SelectionPlan,
        journal: Journal,
        payload: Callable[[str, int], TrialPayload],
        *,
        salvage: bool,
    ) -> None:
        self.salvaged: Salvage | None = None
        self._journal, self._trials = journal, dict[str, NewTrial]()
        if bracket.ended:
            logger.info("%s: the best so far is %s", bracket.ended, bracket.winner)
            finished = {row.trial for row in journal.rows if row.phase == "completion"}
            for model in bracket.winners:
                if model not in finished:
                    start = payload(model, bracket.rung - 1)
                    self._add(NewTrial(FINISH + model, FINISH_TRIAL, start))
        if salvage and bracket.ended:
            logger.info("salvage: left out, because the budget is used up")
        elif salvage:
            self._salvage(bracket, plan, payload)
        self.waiting: tuple[str, ...] = tuple(self._trials)

    def trial(self, name: str) -> NewTrial:
        """Return the trial behind a name that is waited for."""
        return self._trials[name]

    def record(self, name: str, text: str) -> None:
        """Take the result of a trial, as JSON."""
        if name.startswith(FINISH):
            self._journal.append(EpochResult.model_validate_json(text).journal_row())
        else:
            self.salvaged = Salvage.model_validate_json(text)
            logger.info("salvage: %s", self.salvaged.in_words(name.removeprefix(SALVAGE)))
        self.waiting = tuple(other for other in self.waiting if other != name)

    def fail(self, name: str, reason: str) -> None:
        """Refuse to go on: the package that is published would be missing.

        Raises:
            StageError: Always.
        """
        raise StageError(f"{name}: {reason}")

    def _add(self, trial: NewTrial) -> None:
        self._trials[trial.name] = trial

    def _salvage(
        self,
        bracket: Bracket,
        plan: SelectionPlan,
        payload: Callable[[str, int], TrialPayload],
    ) -> None:
        winner, folder = bracket.winner, merged_folder(self._journal.path.parent)
        donors = _donors(bracket, plan, payload)
        if not donors:
            return
        self.salvaged = committed_salvage(folder)
        if self.salvaged is None:
            merge = SalvagePayload(winner=payload(winner, 0), donors=donors, folder=str(folder))
            self._add(NewTrial(SALVAGE + winner, SALVAGE_TRIAL, merge))


def _donors(
    bracket: Bracket, plan: SelectionPlan, payload: Callable[[str, int], TrialPayload]
) -> tuple[Donor, ...]:
    """Trained candidates of the winner's base."""
    last = dict(sorted(bracket.observed.items(), key=lambda each: each[0][1]))
    scores = {
        model: value
        for (model, _), value in last.items()
        if model != bracket.winner and model not in bracket.failures
    }
    packages = plan.packages
    others = [packages[model] for model in scores]
    reasons = same_base(packages[bracket.winner], others, Zoo(plan.zoo))
    for model, reason in reasons.items():
        if reason is not None:
            logger.info("salvage: %s is left out: %s", model, reason)
    return tuple(
        Donor(payload=payload(model, 0), validation=scores[model])
        for model, reason in reasons.items()
        if reason is None
    )
