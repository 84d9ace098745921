"""The outcome of a selection: its report, and the winner as a package."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from orchestrator.config import dump_yaml
from orchestrator.errors import IntegrityError
from orchestrator.inference.examination import examine_draft
from orchestrator.modeling.sentence.statement import copy_statement
from orchestrator.selection.bracket_rows import bracket_cells, bracket_rungs
from orchestrator.selection.card_rows import card_rows
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.costs.accounting import NOTHING, Spent, ledger_of
from orchestrator.selection.costs.comparison import compare_costs
from orchestrator.selection.costs.constraints import EXCLUDED
from orchestrator.selection.halving import Bracket
from orchestrator.selection.objective.publishing import as_trained, publish_compressed
from orchestrator.selection.planning import SelectionPlan
from orchestrator.selection.ranking_text import ranked_models
from orchestrator.selection.recall import plan_recall
from orchestrator.selection.results import (
    REPORT_NAME,
    Clusters,
    Finalist,
    Linkage,
    ProxyScore,
    RankedModel,
    Recalled,
    SelectionReport,
    TargetSummary,
)
from orchestrator.selection.salvage.trial import RECORD
from orchestrator.selection.target_tasks import majority_accuracy
from orchestrator.selection.ties.tie_breaker import TieBreaker
from orchestrator.selection.trials.fine_tuning import (
    PACKAGE,
    STATE_MANIFEST,
    committed_rows,
    learned_task,
)
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.runner import merged_folder, state_folder
from orchestrator.storage import RunFolder
from orchestrator.tasks.base import MODALITIES, build_task
from orchestrator.tasks.suite import Learned
from orchestrator.zoo import Package, commit_once
from orchestrator.zoo.draft import Draft

MAX_CLUSTERED = 1000
"""Models in the dendrogram of a report at most, the first by name."""


def selection_report(
    plan: SelectionPlan,
    recalled: Sequence[Recalled],
    proxies: Mapping[str, ProxyScore],
    bracket: Bracket,
    journal: Journal,
    ties: TieBreaker | None = None,
    package: str = "",
    spent: Spent = NOTHING,
) -> SelectionReport:
    """Collect ranking, bracket, clusters and cost of a finished bracket.

    Args:
        plan: Candidates and target.
        recalled: Ranking of phase one.
        proxies: Model to its scores.
        bracket: Finished.
        journal: Its rows.
        ties: Finds candidates tied with the winner; None: they are not looked for.
        package: Name of the winner's package; the other finalists' names are made from it.
        spent: Tries of the run and latencies.
    """
    task, winner = plan.task, bracket.winner
    finalists = _finalists(bracket, journal, package)
    warnings = list(plan.warnings)
    if winner in plan.tagged:
        warnings.append(
            f"the winner {winner} declares training on {task.name}: its validation score may be "
            "inflated"
        )
    if bracket.ended:
        warnings.append(f"{bracket.ended}: the winner was not trained to the end")
    last_rungs = {model: rung for model, rung in sorted(bracket.observed)}
    tied = () if ties is None else tuple(ties.tied(winner, last_rungs))
    clusters, linkage = _clusters(plan)
    matrix = plan.matrix.normalized().astype(object)
    ledger = ledger_of(plan, proxies, bracket, journal.rows, spent)
    return SelectionReport(
        target=TargetSummary(
            name=task.name,
            labels=tuple(task.label_names),
            kind=plan.asked.kind,
            metric=plan.asked.metric,
            higher_is_better=plan.asked.higher_is_better,
            rows={s: len(task.split(s)) for s in ("train", "validation", "test")},
        ),
        winner=winner,
        test_accuracy=finalists[0].test,
        validation_accuracy=finalists[0].validation,
        finalists=finalists,
        majority_accuracy=majority_accuracy(task, plan.asked),
        policy=plan.decider.name,
        tied_with_winner=tied,
        ranking=_ranking(plan, bracket, recalled),
        bracket=bracket_cells(plan, bracket),
        rungs=bracket_rungs(plan, bracket),
        recall=tuple(recalled),
        clusters=clusters,
        linkage=linkage,
        proxies={m: s.model_copy(update={"nulls": {}}) for m, s in proxies.items()},
        matrix=matrix.where(matrix.notna(), None).to_dict("index"),
        first_rung_steps=plan.rungs.first_steps,
        ledger=ledger,
        comparison=compare_costs(ledger, winner),
        learning_rates=_learning_rates(journal),
        latencies=dict(spent.latencies),
        ended=bracket.ended,
        warnings=tuple(warnings),
    )


def publish_finalists(
    config: SelectConfig, plan: SelectionPlan, report: SelectionReport, run: RunFolder
) -> Package:
    """Commit each finalist as a package, once per run; return the winner's.

    The winner is last: once it is there, the others are.

    Raises:
        IntegrityError: A training state contains no complete package.
    """
    for place in range(len(report.finalists), 0, -1):
        state = state_folder(run.path, report.finalists[place - 1].model)
        if not committed_rows(state):
            raise IntegrityError(f"{state} is not complete. Delete {state} and run again.")
        if place == 1 and report.salvage is not None and report.salvage.merged:
            state = merged_folder(run.path)
        package = _publish(config, plan, report, run, place, state)
        if report.objective is not None:
            package = publish_compressed(config, plan, report, run, place, package)
    return package


def package_name(package: str, place: int) -> str:
    """Name of the package of the finalist at a place: PACKAGE, PACKAGE-2, PACKAGE-3."""
    return package if place == 1 else f"{package}-{place}"


def _publish(
    config: SelectConfig,
    plan: SelectionPlan,
    report: SelectionReport,
    run: RunFolder,
    place: int,
    state: Path,
) -> Package:
    """Commit one finalist.

    Args:
        config: The job.
        plan: Candidates and target.
        report: Stored in the package as ``evaluation/selection.json``.
        run: The run.
        place: 1 for the winner.
        state: Committed folder with the files of its package.

    Raises:
        IntegrityError: The state contains no complete package.
    """
    if not (state / PACKAGE).is_dir():
        raise IntegrityError(
            f"{state} contains no fine-tuned package. Delete {state} and run again."
        )
    finalist = as_trained(report, place)
    modality = MODALITIES.get(plan.task.train.modality, "text")
    parent = plan.packages[finalist.model]
    merged = report.salvage.merged if place == 1 and report.salvage is not None else {}
    scores = report.scores_of(finalist.test, finalist.validation)
    if finalist.learning_rate is not None:
        scores["learning_rate"] = finalist.learning_rate
    manifest = STATE_MANIFEST if state == state_folder(run.path, finalist.model) else RECORD
    learned_spec = learned_task(state, manifest) or plan.asked.spec
    head = learned_spec.head

    def write(draft: Draft) -> None:
        shutil.copytree(state / PACKAGE, draft.path, dirs_exist_ok=True)
        copy_statement(parent.path, draft.path)
        draft.card["Selection"] = card_rows(report, place)
        (draft.path / "evaluation").mkdir(exist_ok=True)
        text = json.dumps(report.model_dump(), indent=1, sort_keys=True, allow_nan=False)
        (draft.path / "evaluation" / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
        (draft.path / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
        learned = Learned(build_task(learned_spec), plan.task, plan.spec)
        examine_draft(
            draft, learned={head: learned}, default=head, config=config.suite, trained=True
        )

    return commit_once(
        run,
        finalist.package,
        kind="finetuned",
        write=write,
        parents=[parent, *(plan.packages[model] for model in merged)],
        task={
            "kind": plan.asked.kind,
            "modality": modality,
            "labels": {head: list(learned_spec.labels)} if learned_spec.labels else {},
            "max_length": config.fine_tune.max_length if modality == "text" else None,
        },
        metrics={**report.figures(), **scores, "model": finalist.model, "place": place},
        licence=parent.manifest.licence,
    )


def _finalists(bracket: Bracket, journal: Journal, package: str) -> tuple[Finalist, ...]:
    found = []
    for place, model in enumerate(bracket.winners, start=1):
        row = next(row for row in reversed(journal.of(model)) if row.test is not None)
        assert row.test is not None
        assert row.validation is not None
        name = package_name(package, place)
        found.append(
            Finalist(
                model=model,
                package=name,
                validation=row.validation,
                test=row.test,
                learning_rate=row.learning_rate,
            )
        )
    return tuple(found)


def _learning_rates(journal: Journal) -> dict[str, dict[str, float | None]]:
    """Model to learning rate to the score that it reached."""
    found: dict[str, dict[str, float | None]] = {}
    for row in journal.rows:
        if row.phase == "learning rate":
            found.setdefault(row.trial, {})[f"{row.learning_rate:g}"] = row.validation
    return found


def _ranking(
    plan: SelectionPlan, bracket: Bracket, recalled: Sequence[Recalled]
) -> tuple[RankedModel, ...]:
    """Winner first, then by the last rung and the score in it; failed models last.

    Args:
        plan: Candidates that left before, and those that declare training on the target.
        bracket: The finished bracket.
        recalled: Candidates that recall ranked.
    """
    entries, failed, tagged = [], plan.failed, plan.tagged
    for place, item in enumerate(recalled):
        rung, reason = bracket.dropped.get(item.model, (0, item.reason))
        status = "dropped" if rung else "not recalled"
        within = place
        if item.model in bracket.winners:
            rung, within = bracket.stages + 1, bracket.winners.index(item.model)
            status = "finalist" if within else "winner"
            reason = "trained to the end" if within else "best of the last rung"
        elif item.model in bracket.failures:
            rung, status = -1, "failed"
        score = bracket.verdicts[rung - 1].scores.get(item.model) if status == "dropped" else None
        order = (-rung, -(score if score is not None else -np.inf), within)
        rungs = range(1, bracket.stages + 1)
        curve = [
            plan.asked.score_of(bracket.observed[item.model, r])
            for r in rungs
            if (item.model, r) in bracket.observed
        ]
        entries.append((order, item, status, reason, curve))
    ranked = ranked_models(entries, tagged, plan.rungs.trained)
    broken = []
    for place, model in enumerate(sorted(failed), start=len(ranked) + 1):
        excluded = failed[model].startswith(EXCLUDED)
        broken.append(
            RankedModel(
                place=place,
                model=model,
                status="excluded" if excluded else "failed",
                reason=failed[model] if excluded else f"failed: {failed[model]}",
                epochs=0,
                validation=(),
                recall_score=None,
                trained_on_target=model in tagged,
            )
        )
    return (*ranked, *broken)


def _clusters(plan: SelectionPlan) -> tuple[Clusters | None, Linkage | None]:
    found = plan.recall.clustering
    if found is None and plan.recall.means:
        shown = sorted(plan.recall.means)[:MAX_CLUSTERED]
        found = plan_recall(plan.history, shown).clustering
    if found is None:
        return None, None
    clusters = Clusters(
        groups=tuple(found.clusters()),
        representatives=tuple(sorted(set(found.representatives().values()))),
        threshold=found.threshold,
        silhouette=found.silhouette(),
    )
    return clusters, Linkage(models=found.models, matrix=found.linkage.tolist())
