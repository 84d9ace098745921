"""Run fine-tuning trials on the cluster: each finished epoch is journaled, shown and measured."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import TrialClusterSection
from orchestrator.selection.results import EpochResult
from orchestrator.selection.rungs import whole
from orchestrator.selection.trials.fine_tuning import TRIAL, TrialPayload
from orchestrator.selection.trials.journal import Journal

if TYPE_CHECKING:
    from orchestrator.cluster.session import RaySession
    from orchestrator.selection.costs.limits import BudgetLimit
    from orchestrator.selection.trials.source import TrialSource

JOURNAL_NAME = "trials.jsonl"


def trial_session(
    cluster: TrialClusterSection, trials: int
) -> "AbstractContextManager[RaySession]":
    """Return a session with room for the trials that run at once.

    Args:
        cluster: The cluster, and what each trial takes.
        trials: How many there are in all.
    """
    from orchestrator.cluster.session import session_for

    at_once, each = min(cluster.workers, trials), cluster.workers_per_trial
    name = "cluster.workers" if each == 1 else "cluster.workers × cluster.workers_per_trial"
    return session_for(cluster, at_once * each, name)


def train_trials(
    payloads: Mapping[str, TrialPayload],
    journal: Journal,
    cluster: TrialClusterSection,
    *,
    title: tuple[str, str],
    total: int,
) -> dict[str, str | None]:
    """Run trials on the connected Ray to their ends; each epoch is on disk before the next counts.

    Args:
        payloads: Trial id to what it trains.
        journal: Of the run; Tune's own files go beside it.
        cluster: Resources of one trial.
        title: Stage name for metrics, and what the progress bar says.
        total: Epochs that the progress bar counts to.

    Returns:
        Trial id to its error, None for a trial that ended well.
    """
    from orchestrator.cluster.tune import run_trials

    with _recorder(journal, title, total) as record:
        return run_trials(
            TRIAL,
            payloads,
            EpochResult,
            storage=journal.path.parent / "tune",
            cluster=cluster,
            on_result=record,
        )


def run_selection(
    source: "TrialSource",
    journal: Journal,
    limit: "BudgetLimit",
    cluster: TrialClusterSection,
    *,
    title: tuple[str, str],
    total: int,
    observe: Callable[[], None] | None = None,
    slots: int = 1,
) -> None:
    """Run screening and halving on the connected Ray, in the same processes.

    Args:
        source: Makes the trials.
        journal: Of the run; Tune's own files go beside it.
        limit: Budget.
        cluster: Resources of one trial.
        title: Stage name for metrics, and what the progress bar says.
        total: Epochs that the progress bar counts to.
        observe: Called after each result and each failure.
        slots: Slots of one host that survivors share when they are fewer; 1: they never do.

    Raises:
        OrchestratorError: What ended screening or the bracket.
    """
    from orchestrator.cluster.tune import run_queue
    from orchestrator.selection.trials.scheduler import HalvingScheduler

    with _recorder(journal, title, total) as record:
        scheduler = HalvingScheduler(source, journal, limit, record, observe, slots)
        run_queue(scheduler, storage=journal.path.parent / "tune", cluster=cluster)
    if scheduler.error is not None:
        raise scheduler.error


@contextmanager
def _recorder(
    journal: Journal, title: tuple[str, str], total: int
) -> Iterator[Callable[[str, EpochResult], None]]:
    """Yield what journals, shows and measures a finished epoch."""
    from orchestrator.cluster.observe.progress import Progress
    from orchestrator.cluster.observe.watch import TrainingMetrics

    stage, text = title
    metrics, progress = TrainingMetrics(stage), Progress(text, total, unit="epoch")

    def record(trial: str, row: EpochResult) -> None:
        journal.append(row.journal_row())  # no effect if the scheduler has written it
        score = "failed" if row.validation is None else f"{row.validation:.3f}"
        epochs = whole(sum(each.paid for each in journal.of(trial)))
        progress.update(len(journal.rows), f"{trial} {score} after epoch {epochs}")
        if row.error:
            return
        steps = sum(row.steps for row in journal.of(trial))
        losses = {} if row.loss is None else {"loss": row.loss}
        metrics.record(trial, steps, "train", {})
        metrics.record(trial, steps, "validation", losses)

    progress.update(len(journal.rows))
    try:
        yield record
    finally:
        progress.close()


def state_folder(run: Path, trial: str) -> Path:
    """Folder in which a trial commits its training state."""
    return (run / "trials" / re.sub(r"[^A-Za-z0-9._-]+", "_", trial)).absolute()


def merged_folder(run: Path) -> Path:
    """Folder in which a salvage commits what it measured and the merged package."""
    return state_folder(run, "~merged")


def remove_states(run: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in ("trials", "tune"):
        shutil.rmtree(run / name, ignore_errors=True)
