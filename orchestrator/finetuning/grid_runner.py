"""Grid search on the cluster: trials through Ray Tune, as many at once as fit."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.finetuning.config import SearchSection
from orchestrator.finetuning.grid import (
    GridPayload,
    combinations,
    committed,
    decide,
    is_over,
    state_folder,
    trial_name,
    with_values,
)
from orchestrator.finetuning.inputs import FinetuneInputs, job_of
from orchestrator.finetuning.results import EpochScore, GridResult
from orchestrator.storage import RunFolder

if TYPE_CHECKING:
    from orchestrator.training.learning_rates import Rate

logger = logging.getLogger(__name__)

TRIAL = "orchestrator.finetuning.grid:GridTrial"


def search_grid(
    folder: RunFolder, inputs: FinetuneInputs, search: SearchSection, rate: "Rate"
) -> GridResult:
    """Train every combination of values on the connected Ray, or the rest of an earlier call.

    Args:
        folder: The run.
        inputs: Its inputs.
        search: Values that are tried.
        rate: The learning rate where that is not searched.

    Raises:
        StageError: No trial has a score.
    """
    values = combinations(search, inputs.config, rate.value)
    trials = {trial_name(each, search): each for each in values}
    states = {name: state_folder(folder.path, name) for name in trials}
    payloads: dict[str, GridPayload] = {}
    for name, each in trials.items():
        config = with_values(inputs.config, each)
        if is_over(committed(states[name]), config):
            continue
        own = type(rate)(each.learning_rate, "of the search")
        job = job_of(inputs, folder.path, own).model_copy(update={"config": config})
        gpus = config.cluster.gpus_per_worker
        payloads[name] = GridPayload(job=job, state=str(states[name]), gpus=gpus)
    errors = _run(folder, inputs, payloads) if payloads else {}
    ranked = decide(trials, {name: committed(state) for name, state in states.items()}, errors)
    best = ranked[0]
    logger.info("search: the best of %d trials is %s", len(ranked), trial_name(best.values, search))
    return GridResult(trials=ranked)


def _run(
    folder: RunFolder, inputs: FinetuneInputs, payloads: Mapping[str, GridPayload]
) -> dict[str, str | None]:
    """Run trials; return the error of each, None for those that ended well."""
    from orchestrator.cluster.observe.progress import Progress
    from orchestrator.cluster.tune import run_trials

    total = sum(payload.job.config.train.epochs for payload in payloads.values())
    progress, done = Progress("grid search", total, unit="epoch"), 0

    def record(trial: str, score: EpochScore) -> None:
        nonlocal done
        done += 1
        progress.update(done, f"{trial}: {score.value:.4f}")

    try:
        return run_trials(
            TRIAL,
            payloads,
            EpochScore,
            storage=folder.path / "tune",
            cluster=inputs.config.cluster,
            on_result=record,
        )
    finally:
        progress.close()
