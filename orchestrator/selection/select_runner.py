"""The select job on a cluster: screening and halving in one Ray Tune run, then a package."""

import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import JobResult
from orchestrator.errors import StageError
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.costs.accounting import Spent
from orchestrator.selection.costs.clock import slots_of
from orchestrator.selection.costs.forecast import plan_lines
from orchestrator.selection.costs.limits import BudgetLimit, open_limit
from orchestrator.selection.halving import Bracket, planned_bracket, replay_rows, rung_sizes
from orchestrator.selection.monitoring import GAUGES, Monitor
from orchestrator.selection.objective.finalists import Finishing, explained, finish, result_of
from orchestrator.selection.objective.results import CompressedFinalist
from orchestrator.selection.planning import SelectionPlan, describe_selection, plan_selection
from orchestrator.selection.ranking_text import ranking_lines
from orchestrator.selection.results import REPORT_NAME, SelectionReport
from orchestrator.selection.salvage.results import Salvage
from orchestrator.selection.screening import Screening
from orchestrator.selection.ties.row_scores import FOLDER as ROW_SCORES
from orchestrator.selection.ties.tie_breaker import TieBreaker, Traits, ties_in_words
from orchestrator.selection.trials.fine_tuning import TRIAL, TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.runner import (
    JOURNAL_NAME,
    remove_states,
    run_selection,
    state_folder,
    trial_session,
)
from orchestrator.selection.trials.source import Phase, TrialSource
from orchestrator.storage import RunFolder, atomic_write_json
from orchestrator.training.events import NewTrial
from orchestrator.zoo import Package, committed, conclude

if TYPE_CHECKING:
    from orchestrator.selection.trials.closing import Closing

STAGE = "select"
OUTCOME = "orchestrator.selection.outcome"
logger = logging.getLogger(__name__)


def check(config: SelectConfig) -> str:
    """The plan in words, with its highest cost; needs no cluster."""
    return describe_selection(config)


def run(config: SelectConfig) -> JobResult:
    """Recall, halve, fine-tune the winner and commit it; resumable at every epoch.

    Raises:
        InputError: Packages, matrix, target or CPUs are missing, or the target is in the matrix.
        StageError: Every candidate failed.
    """
    with RunFolder.open(config, STAGE) as folder:
        if (done := folder.finished()) is not None:
            return done
        package = committed(folder, config.package) or _select(config, folder)
        report = SelectionReport.read(folder.path / REPORT_NAME)
        metrics = {**package.manifest.metrics, **report.in_full()}
        remove_states(folder.path)
        return conclude(folder, package, metrics=metrics)


def _select(config: SelectConfig, folder: RunFolder) -> Package:
    from orchestrator.cluster.tasks import TaskPool
    from orchestrator.data.rows.same_rows import require_same_rows

    plan = plan_selection(config, folder)
    require_same_rows(folder, {plan.task.name: plan.task})
    journal = Journal(folder.path / JOURNAL_NAME)
    with trial_session(config.cluster, len(plan.packages)) as session:
        slots = slots_of(config.cluster, session.cpus, session.gpus)
        limit = open_limit(config, plan, folder, journal.rows, slots)
        for line in plan_lines(config, plan, slots):
            logger.info("%s", line)
        # On a cluster that others share, the CPUs beside a process are not known to be free.
        alone = session.private and config.cluster.workers_per_trial == 1
        shared = int(slots) if alone else 1
        try:
            found = _halve(config, plan, folder, journal, limit, shared)
        except StageError as error:
            raise explained(error, config.objective, journal.rows) from error
        screening, bracket, ties, salvaged = found
        plan, compressed = screening.plan, list[CompressedFinalist]()
        if config.objective.after is not None:
            finishing = Finishing(config, plan, folder, TaskPool(config.cluster))
            salvaged, compressed = finish(finishing, bracket, salvaged)
        spent = Spent(limit.clock.stop(), screening.latencies, salvaged, compressed)
    from orchestrator.selection.objective.publishing import with_objective
    from orchestrator.selection.outcome import publish_finalists, selection_report

    recalled, proxies = screening.recalled, screening.scores
    report = selection_report(
        plan, recalled, proxies, bracket, journal, ties, config.package, spent
    )
    if salvaged is not None:
        report = report.with_salvage(salvaged)
    if compressed:
        report = with_objective(report, result_of(config.objective, compressed))
    for line in ranking_lines(report.ranking, report.tied_with_winner):
        logger.info("%s", line)
    if report.tied_with_winner:
        logger.info("%s", ties_in_words(report.winner, report.tied_with_winner))
    atomic_write_json(folder.path / REPORT_NAME, report.model_dump())
    return publish_finalists(config, plan, report, folder)


def _halve(
    config: SelectConfig,
    plan: SelectionPlan,
    folder: RunFolder,
    journal: Journal,
    limit: BudgetLimit,
    slots: int,
) -> tuple[Screening, Bracket, TieBreaker, Salvage | None]:
    """Screening, halving and closing on Ray Tune, from where run folder and journal end."""
    screening = Screening(config, plan, folder)
    begun: list[tuple[Bracket, TieBreaker]] = []
    closed: list[Closing] = []

    def begin() -> Bracket:
        # The outcome needs torch, whose import takes seconds: it goes on while trials train.
        threading.Thread(target=importlib.import_module, args=(OUTCOME,), daemon=True).start()
        begun.append(_begin(config, screening, folder, journal, limit))
        return begun[0][0]

    def payload(model: str, start: int) -> TrialPayload:
        return _payload(config, screening.plan, folder.path, model, start)

    def trial(model: str) -> NewTrial:
        return NewTrial(model, TRIAL, payload(model, begun[0][0].rung - 1))

    def close(bracket: Bracket) -> Phase:
        from orchestrator.selection.trials.closing import Closing

        closed.append(Closing(bracket, screening.plan, journal, payload, salvage=config.salvage))
        return closed[0]

    seconds = None if limit.timed else limit.times.of
    source = TrialSource(begin, trial, screening, close, seconds)
    observe = _observer(config, screening, source, journal, limit)
    if not source.finished:
        top = config.finish_top
        sizes = rung_sizes(screening.plan.pool, plan.rungs.count, plan.judge, top)
        run_selection(
            source,
            journal,
            limit,
            config.cluster,
            title=(STAGE, "selection"),
            total=sum(sizes),
            observe=observe,
            slots=slots,
        )
    observe()
    return screening, *begun[0], closed[0].salvaged


def _observer(
    config: SelectConfig,
    screening: Screening,
    source: TrialSource,
    journal: Journal,
    limit: BudgetLimit,
) -> Callable[[], None]:
    """Return a function that shows the state of the run in Ray's metrics."""
    from orchestrator.cluster.observe.gauges import Gauges

    gauges = Gauges(GAUGES)

    def observe() -> None:
        plan = screening.plan
        monitor = Monitor(
            run=config.run.name,
            candidates=tuple(plan.packages),
            failed=plan.failed,
            proxies=screening.scores,
            latencies=screening.latencies,
            bracket=source.bracket,
            rows=journal.rows,
            budget_used=limit.used,
        )
        gauges.show(monitor.readings())

    observe()
    return observe


def _begin(
    config: SelectConfig,
    screening: Screening,
    folder: RunFolder,
    journal: Journal,
    limit: BudgetLimit,
) -> tuple[Bracket, TieBreaker]:
    """Begin the bracket of the recalled candidates, as far as the journal goes."""
    plan, latencies = screening.plan, screening.latencies
    pool = tuple(item.model for item in screening.recalled if item.kept)
    count = len(screening.recalled)
    logger.info("recalled %d of %d candidates: %s", plan.pool, count, ", ".join(pool))
    traits = {ref: Traits.of(package) for ref, package in plan.packages.items()}
    for ref in latencies.keys() & traits:
        traits[ref] = replace(traits[ref], latency_ms=latencies[ref].ms)
    ties = TieBreaker(config.ties, folder.path / ROW_SCORES, traits)
    limit.times.add_proxies(screening.scores, len(plan.task.train))
    bracket = planned_bracket(plan, pool, ties, config.finish_top, limit.open_rung)
    limit.open_rung(bracket)
    replay_rows(bracket, journal.rows)
    return bracket, ties


def _payload(
    config: SelectConfig, plan: SelectionPlan, run: Path, model: str, start: int
) -> TrialPayload:
    """Return the trial of a model from an epoch on."""
    return TrialPayload(
        trial=model,
        package=model,
        zoo=plan.zoo,
        task=plan.spec,
        asked=plan.asked,
        fine_tune=config.fine_tune,
        learning_rates=config.halving.learning_rates or (),
        first_rung_steps=config.halving.first_rung_steps,
        seed=config.seed,
        precision=config.precision,
        gpus=config.cluster.gpus_per_worker,
        state=str(state_folder(run, model)),
        start=start,
        keep_package=True,
        row_scores=str((run / ROW_SCORES).absolute()),
        objective=config.objective if config.objective.after is not None else None,
    )
