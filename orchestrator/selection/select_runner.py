"""The select job on a cluster: proxies as Ray tasks, halving on Ray Tune, then a package."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.config import JobResult
from orchestrator.errors import StageError
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.costs.accounting import Spent
from orchestrator.selection.costs.clock import slots_of
from orchestrator.selection.costs.constraints import too_slow
from orchestrator.selection.costs.forecast import plan_lines
from orchestrator.selection.costs.limits import BudgetLimit, open_limit
from orchestrator.selection.costs.results import Latency
from orchestrator.selection.halving import Bracket, replay_rows, rung_sizes
from orchestrator.selection.outcome import publish_finalists, selection_report
from orchestrator.selection.planning import SelectionPlan, describe_selection, plan_selection
from orchestrator.selection.recall import lacks_information, recall_candidates
from orchestrator.selection.results import REPORT_NAME, ProxyScore, Recalled, SelectionReport
from orchestrator.selection.salvage.results import Salvage
from orchestrator.selection.scores.feature_cache import FOLDER as FEATURES
from orchestrator.selection.scores.features import ProxyPayload
from orchestrator.selection.ties.row_scores import FOLDER as ROW_SCORES
from orchestrator.selection.ties.tie_breaker import TieBreaker, Traits, ties_in_words
from orchestrator.selection.trials.failures import reason_of
from orchestrator.selection.trials.fine_tuning import TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.runner import (
    JOURNAL_NAME,
    merged_folder,
    remove_states,
    state_folder,
    train_trials,
)
from orchestrator.storage import RunFolder, atomic_write_json
from orchestrator.zoo import Package, Zoo, committed

STAGE = "select"
PROXY_TIMEOUT_S = 600.0
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
        metrics = {**package.manifest.metrics, **report.cost_in_full()}
        result = JobResult(package=package.ref, metrics=metrics, run_dir=str(folder.path))
        folder.finish(result)
        remove_states(folder.path)
        return result


def _select(config: SelectConfig, folder: RunFolder) -> Package:
    from orchestrator.cluster.session import session_for
    from orchestrator.data.rows.same_rows import require_same_rows

    plan = plan_selection(config, folder)
    require_same_rows(folder, {plan.task.name: plan.task})
    journal = Journal(folder.path / JOURNAL_NAME)
    with session_for(config.cluster, min(config.cluster.workers, len(plan.packages))) as session:
        slots = slots_of(config.cluster, session.cpus, session.gpus)
        limit = open_limit(config, plan, folder, journal.rows, slots)
        for line in plan_lines(config, plan, slots):
            logger.info("%s", line)
        plan, proxies, recalled, latencies = _recalled_plan(config, plan, folder)
        names = ", ".join(item.model for item in recalled if item.kept)
        logger.info("recalled %d of %d candidates: %s", plan.pool, len(recalled), names)
        traits = {ref: Traits.of(package) for ref, package in plan.packages.items()}
        for ref in latencies.keys() & traits:
            traits[ref] = replace(traits[ref], latency_ms=latencies[ref].ms)
        ties = TieBreaker(config.ties, folder.path / ROW_SCORES, traits)
        limit.times.add_proxies(proxies, len(plan.task.train))
        bracket = _halve(config, plan, recalled, journal, ties, limit)
        _finish_early(config, plan, bracket, journal)
        salvaged = _salvage(config, plan, folder.path, bracket) if config.salvage else None
        spent = Spent(limit.clock.stop(), latencies, salvaged)
    report = selection_report(
        plan, recalled, proxies, bracket, journal, ties, config.package, spent
    )
    if salvaged is not None:
        report = report.with_salvage(salvaged)
    for entry in report.ranking:
        logger.info("%d. %s: %s, %s", entry.place, entry.model, entry.status, entry.reason)
    if report.tied_with_winner:
        logger.info("%s", ties_in_words(report.winner, report.tied_with_winner))
    atomic_write_json(folder.path / REPORT_NAME, report.model_dump())
    return publish_finalists(config, plan, report, folder)


def _recalled_plan(
    config: SelectConfig, plan: SelectionPlan, folder: RunFolder
) -> tuple[SelectionPlan, dict[str, ProxyScore], list[Recalled], dict[str, Latency]]:
    """Recall until no recalled candidate is broken or too slow.

    Returns:
        The plan without the others, every proxy score, the ranking, and the latencies.
    """
    from orchestrator.cluster.tasks import TaskPool
    from orchestrator.selection.costs.latency import try_time

    latencies: dict[str, Latency] = {}
    while True:
        plan, proxies = _scored_plan(config, plan, folder)
        plan, recalled = _recall(plan, proxies, config.recall.mode)
        most = config.constraints.max_latency_ms
        if most is None:
            return plan, proxies, recalled, latencies
        kept = [item.model for item in recalled if item.kept]
        for model in kept:
            if (found := folder.done(f"latency {model}")) is not None:
                latencies[model] = Latency.model_validate(found)
        payloads = {m: (_proxy_payload(config, plan, m),) for m in kept if m not in latencies}
        for model, measured in TaskPool(config.cluster).map(try_time, payloads, "latency"):
            latencies[model] = measured
            folder.mark(f"latency {model}", measured.model_dump())
        broken = {m: latencies.pop(m).error for m in kept if latencies[m].error}
        slow = broken or too_slow(latencies, plan.packages, most)
        if not slow:
            return plan, proxies, recalled, latencies
        for model, reason in slow.items():
            logger.info("%s is left out: %s", model, reason)
        plan = plan.without(slow, config.recall)


def _scored_plan(
    config: SelectConfig, plan: SelectionPlan, folder: RunFolder
) -> tuple[SelectionPlan, dict[str, ProxyScore]]:
    """Run models forward until the plan asks for no more; a broken one leaves the plan.

    Returns:
        The plan without broken candidates, and every score, failures included.
    """
    stored = {model: folder.done(f"proxy {model}") for model in plan.packages}
    scores = {model: ProxyScore.model_validate(found) for model, found in stored.items() if found}
    while True:
        broken = {m: scores[m].error for m in plan.packages if m in scores and scores[m].error}
        if broken:
            plan = plan.without(broken, config.recall)
        missing = [model for model in plan.to_score if model not in scores]
        if not missing:
            return plan, scores
        for model, score in _score_proxies(config, plan, missing, folder.path.parent / FEATURES):
            scores[model] = score
            folder.mark(f"proxy {model}", score.model_dump())


def _recall(
    plan: SelectionPlan, proxies: Mapping[str, ProxyScore], mode: str
) -> tuple[SelectionPlan, list[Recalled]]:
    """Recall candidates; without any information more of them, and the plan says so.

    Args:
        plan: The plan without broken candidates.
        proxies: Scores of at least the models that it asks for.
        mode: As in `RecallConfig`.
    """
    scores = {model: proxies[model] for model in plan.to_score}
    predictor = plan.decider.predictor
    left_out = plan.pool < len(plan.packages)
    if mode == "default" and left_out and lacks_information(plan.recall, predictor, scores):
        taken = "all" if plan.widest == len(plan.packages) else f"{plan.widest} of"
        warning = (
            f"no information: no history, and no proxy above chance; {taken} "
            f"{len(plan.packages)} candidates are taken in order of size"
        )
        logger.warning("%s", warning)
        plan = replace(plan, pool=plan.widest, warnings=(*plan.warnings, warning))
    ranked = recall_candidates(plan.recall, scores, mode=mode, predictor=predictor, pool=plan.pool)
    return plan, ranked


def _score_proxies(
    config: SelectConfig, plan: SelectionPlan, models: Iterable[str], cache: Path
) -> Iterator[tuple[str, ProxyScore]]:
    """Yield the scores of models as their forward passes, parallel Ray tasks, end."""
    import ray

    from orchestrator.selection.scores.features import try_package

    task = ray.remote(
        num_cpus=config.cluster.cpus_per_worker,
        num_gpus=config.cluster.gpus_per_worker,
        max_retries=config.cluster.max_failures,
        retry_exceptions=True,
        label_selector=config.cluster.labels,
    )(try_package)
    pending = {task.remote(_proxy_payload(config, plan, model, cache)): model for model in models}
    while pending:
        ready, _ = ray.wait(list(pending), timeout=PROXY_TIMEOUT_S)
        if not ready:
            raise StageError(f"proxies: no result within {PROXY_TIMEOUT_S:.0f} s.")
        model = pending.pop(ready[0])
        try:
            score: ProxyScore = ray.get(ready[0])
        except ray.exceptions.RayError as error:  # after cluster.max_failures retries
            score = ProxyScore(values={}, floors={}, error=reason_of(error))
        if score.error:
            logger.warning("proxy scores of %s failed: %s", model, score.error)
        else:
            shown = (f"{n} {v:.3f} (floor {score.floors[n]:.3f})" for n, v in score.values.items())
            logger.info("proxy scores of %s: %s", model, ", ".join(sorted(shown)))
        yield model, score


def _halve(
    config: SelectConfig,
    plan: SelectionPlan,
    recalled: Iterable[Recalled],
    journal: Journal,
    ties: TieBreaker,
    limit: BudgetLimit,
) -> Bracket:
    """Phase two on Ray Tune, from where the journal ends."""
    from orchestrator.selection.trials.scheduler import HalvingScheduler

    epochs, policy = config.fine_tune.epochs, plan.decider.policy
    pool = tuple(item.model for item in recalled if item.kept)
    bracket = Bracket(pool, epochs, policy, ties, config.finish_top, limit.open_rung)
    limit.open_rung(bracket)
    replay_rows(bracket, journal.rows)
    if bracket.finished:
        return bracket
    payloads = {
        model: _payload(config, plan, journal.path.parent, model, start=bracket.rung - 1)
        for model in bracket.pool
        if model not in bracket.failures
    }
    paid = sum(row.rung < bracket.rung for row in journal.rows)
    left = rung_sizes(len(bracket.pool), epochs - bracket.rung + 1, policy, config.finish_top)
    most = paid + sum(left)
    scheduler = HalvingScheduler(bracket, journal, limit)
    train_trials(
        payloads,
        journal,
        config.cluster,
        title=(STAGE, "halving"),
        total=most,
        scheduler=scheduler,
    )
    if scheduler.error is not None:
        raise scheduler.error
    return bracket


def _finish_early(
    config: SelectConfig, plan: SelectionPlan, bracket: Bracket, journal: Journal
) -> None:
    """Make the packages of finalists that the budget did not let train to the end."""
    from orchestrator.cluster.tasks import TaskPool
    from orchestrator.selection.trials.fine_tuning import finish_trial

    if not bracket.ended:
        return
    logger.info("%s: the best so far is %s", bracket.ended, bracket.winner)
    run, done = journal.path.parent, bracket.rung - 1
    for model in bracket.winners:
        payload = _payload(config, plan, run, model, start=done)
        row = TaskPool(config.cluster).call(finish_trial, payload)
        journal.append(row.journal_row())


def _proxy_payload(
    config: SelectConfig, plan: SelectionPlan, model: str, cache: Path | None = None
) -> ProxyPayload:
    """Return the forward pass of a model, and where its features are cached."""
    return ProxyPayload(
        package=model,
        zoo=plan.zoo,
        task=plan.spec,
        proxies=config.recall.proxies,
        rows=config.recall.max_proxy_rows,
        max_length=config.fine_tune.max_length,
        seed=config.seed,
        layers=config.recall.features,
        cache=str(cache.absolute()) if cache is not None else "",
    )


def _payload(
    config: SelectConfig, plan: SelectionPlan, run: Path, model: str, start: int
) -> TrialPayload:
    """Return the trial of a model from an epoch on."""
    return TrialPayload(
        trial=model,
        package=model,
        zoo=plan.zoo,
        task=plan.spec,
        fine_tune=config.fine_tune,
        seed=config.seed,
        precision=config.precision,
        gpus=config.cluster.gpus_per_worker,
        state=str(state_folder(run, model)),
        start=start,
        keep_package=True,
        row_scores=str((run / ROW_SCORES).absolute()),
    )


def _salvage(
    config: SelectConfig, plan: SelectionPlan, run: Path, bracket: Bracket
) -> Salvage | None:
    """Merge trained candidates of the winner's base into it; None: there are none."""
    from orchestrator.cluster.tasks import TaskPool
    from orchestrator.selection.salvage.merging import same_base
    from orchestrator.selection.salvage.trial import Donor, salvage_winner

    if bracket.ended:
        logger.info("salvage: left out, because the budget is used up")
        return None
    winner, last = bracket.winner, dict(sorted(bracket.observed.items(), key=lambda e: e[0][1]))
    scores = {
        model: value
        for (model, _), value in last.items()
        if model != winner and model not in bracket.failures
    }
    packages = plan.packages
    reasons = same_base(packages[winner], [packages[model] for model in scores], Zoo(plan.zoo))
    donors = [
        Donor(payload=_payload(config, plan, run, model, start=0), validation=scores[model])
        for model, reason in reasons.items()
        if reason is None
    ]
    for model, reason in reasons.items():
        if reason is not None:
            logger.info("salvage: %s is left out: %s", model, reason)
    if not donors:
        return None
    found = TaskPool(config.cluster).call(
        salvage_winner, _payload(config, plan, run, winner, start=0), donors, merged_folder(run)
    )
    logger.info("salvage: %s", found.in_words(winner))
    return found
