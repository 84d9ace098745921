"""The benchmark job on a cluster: one trial per missing cell of the performance matrix."""

import logging

from orchestrator.config import JobResult
from orchestrator.errors import StageError
from orchestrator.selection.benchmark import (
    BenchmarkPlan,
    complete_matrix,
    describe_benchmark,
    plan_benchmark,
)
from orchestrator.selection.config import BenchmarkConfig
from orchestrator.selection.matrix.files import write_matrix
from orchestrator.selection.results import JournalRow
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.payloads import TrialPayload
from orchestrator.selection.trials.runner import (
    JOURNAL_NAME,
    remove_states,
    state_folder,
    train_trials,
)
from orchestrator.storage import RunFolder

STAGE = "benchmark"
logger = logging.getLogger(__name__)


def check(config: BenchmarkConfig) -> str:
    """The plan in words; needs no cluster and reads no rows."""
    return describe_benchmark(config)


def run(config: BenchmarkConfig) -> JobResult:
    """Fine-tune every package on every data set and complete the matrix file; resumable.

    Raises:
        InputError: Packages, data or CPUs are missing.
        StageError: No trial finished.
    """
    with RunFolder.open(config, STAGE) as folder:
        if (done := folder.finished()) is not None:
            return done
        plan = plan_benchmark(config)
        journal = Journal(folder.path / JOURNAL_NAME)
        _train_cells(config, plan, journal)
        matrix = complete_matrix(plan, journal, config.fine_tune.epochs)
        finals = matrix.final()
        if finals.isna().all(axis=None):
            raise StageError(
                "benchmark: no trial finished; the reasons are in "
                f"{journal.path}. Remove the failing packages, or delete {folder.path}."
            )
        write_matrix(matrix, config.matrix)
        result = JobResult(
            metrics={
                "models": len(finals),
                "datasets": len(finals.columns),
                "cells_trained": len(plan.cells),
                "cells_missing": len(matrix.missing()),
                "epochs": len(journal.rows),
                "steps": sum(row.steps for row in journal.rows),
                "matrix": config.matrix,
                "best": {str(name): str(finals[name].idxmax()) for name in finals.columns},
            },
            run_dir=str(folder.path),
        )
        folder.finish(result)
        remove_states(folder.path)
        return result


def _train_cells(config: BenchmarkConfig, plan: BenchmarkPlan, journal: Journal) -> None:
    """Train the cells that have no final row yet."""
    from orchestrator.cluster.session import session_for

    epochs = config.fine_tune.epochs
    ended = {row.trial for row in journal.rows if row.rung == epochs or row.error}
    payloads = {
        cell.trial: TrialPayload(
            trial=cell.trial,
            package=cell.package,
            zoo=plan.zoo,
            task=cell.spec,
            fine_tune=config.fine_tune,
            seed=config.seed,
            gpus=config.cluster.gpus_per_worker,
            state=str(state_folder(journal.path.parent, cell.trial)),
        )
        for cell in plan.cells
        if cell.trial not in ended
    }
    if not payloads:
        return
    workers = min(config.cluster.workers, len(payloads))
    with session_for(config.cluster, workers):
        errors = train_trials(
            payloads,
            journal,
            config.cluster,
            title=(STAGE, "benchmark"),
            total=len(plan.cells) * epochs,
        )
    for trial, error in errors.items():
        if error is not None:
            logger.warning("%s failed: %s", trial, error)
            rung = len(journal.of(trial)) + 1
            journal.append(JournalRow(trial=trial, rung=rung, validation=None, error=error))
