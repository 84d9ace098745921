"""Salvage of one selection: runs in a worker on the states of its trials; imports no Ray."""

import functools
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import StrictModel
from orchestrator.modeling.package import read_state
from orchestrator.selection.objective.checking import check_trial
from orchestrator.selection.objective.config import ObjectiveConfig
from orchestrator.selection.salvage.merging import Ingredient, Weights, salvage
from orchestrator.selection.salvage.results import Salvage
from orchestrator.selection.target_tasks import TargetTask
from orchestrator.selection.trials.fine_tuning import (
    PACKAGE,
    FineTuneTrial,
    TrialPayload,
    committed_rows,
)
from orchestrator.storage import staged, verify_folder

if TYPE_CHECKING:
    from orchestrator.training.finetune.finetuner import FineTuner
    from orchestrator.training.finetune.lesson_data import Split

RECORD = "salvage.json"


class Donor(StrictModel):
    """A trained candidate of the winner's base."""

    payload: TrialPayload
    """Its trial."""
    validation: float
    """Its last validation score; larger is better."""


class SalvagePayload(StrictModel):
    """One salvage."""

    winner: TrialPayload
    """The trial that was trained to its end."""
    donors: tuple[Donor, ...]
    """Trials of the same base, trained to any epoch."""
    folder: str
    """Place where the result is committed."""


def committed_salvage(folder: Path) -> Salvage | None:
    """Return what an earlier try of the run has measured; None: it has not come that far."""
    if not (folder / RECORD).exists():
        return None
    return Salvage.model_validate(verify_folder(folder, RECORD)["salvage"])


def salvage_winner(winner: TrialPayload, donors: Sequence[Donor], folder: Path) -> Salvage:
    """Merge donors into the winner; commit the merged package if it validates better.

    Args:
        winner: The trial that was trained to its end.
        donors: Trials of the same base, trained to any epoch.
        folder: Where the result is committed, with the package where one is better than the winner.

    Returns:
        What was measured; the committed one if this was done before.
    """
    if (found := committed_salvage(folder)) is not None:
        return found
    started, package = time.perf_counter(), Path(winner.state) / PACKAGE
    # adapters are merged in the files of a package: its weights are measured without any
    plain = winner.fine_tune.model_copy(update={"lora": None})
    tuner = FineTuneTrial(winner.model_copy(update={"fine_tune": plain})).tuner_of(package)
    trained = read_state(package)
    good = functools.partial(_goodness, winner.asked)
    score = functools.partial(_score_of, tuner, objective=winner.objective)
    before = good(score(trained))
    others = [
        Ingredient(
            donor.payload.package, donor.validation, functools.partial(_trained, donor.payload)
        )
        for donor in donors
    ]
    weights, found = salvage(trained, before, others, lambda each: good(score(each)))
    if found.merged:
        if winner.asked is not None and winner.asked.adapts:
            _score_of(tuner, weights)  # a threshold was last chosen for other weights
        found = found.model_copy(update={"test": _score_of(tuner, weights, "test")})
    found = found.model_copy(update={"seconds": time.perf_counter() - started})
    if winner.asked is not None:
        found = found.in_unit(winner.asked.score_of)
    learned = tuner.tasks[tuner.head].spec.model_dump(mode="json")
    with staged(folder, {"salvage": found.model_dump(), "learned": learned}, RECORD) as draft:
        if found.merged:
            tuner.model.load_state_dict(weights, strict=False)
            (draft / PACKAGE).mkdir()
            tuner.write(draft / PACKAGE)
            _copy_curves(package, draft / PACKAGE)
    return found


def _goodness(asked: TargetTask | None, score: float) -> float:
    """Return a score on the scale of decisions, where larger is better."""
    return score if asked is None or math.isnan(score) else asked.goodness(score)


def _score_of(
    tuner: "FineTuner",
    weights: Weights,
    split: "Split" = "validation",
    objective: ObjectiveConfig | None = None,
) -> float:
    """Return the primary metric of merged weights; NaN if they are not finite.

    With an objective it is the score after compression, as in the rungs.
    """
    if not all(bool(each.isfinite().all()) for each in weights.values()):
        return math.nan
    tuner.model.load_state_dict(dict(weights), strict=False)
    found = tuner.figures(split)[tuner.watched]
    return found if objective is None else found - check_trial(tuner, objective)[0].drop


def _trained(payload: TrialPayload) -> Weights:
    """Return the trained weights of a trial under the names that its package would store."""
    state = Path(payload.state)
    if (state / PACKAGE).is_dir():
        return read_state(state / PACKAGE)
    tuner = FineTuneTrial(payload).tuner_after(len(committed_rows(state)))
    with tempfile.TemporaryDirectory() as folder:
        tuner.write(Path(folder))
        return read_state(Path(folder))


def _copy_curves(source: Path, target: Path) -> None:
    """Give the merged package the winner's learning curves: no step was added."""
    from orchestrator.training.finetune.finetuner import HISTORY

    shutil.copyfile(source / HISTORY, target / HISTORY)
