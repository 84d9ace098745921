"""What a selection found, as plain data: ranking with reasons, bracket, clusters, cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from orchestrator.selection.convergence import MIN_HISTORY_SETS, conformal_halfwidth
from orchestrator.selection.halving import Bracket
from orchestrator.selection.journal import Journal
from orchestrator.selection.ledger import Ledger
from orchestrator.selection.planning import SelectionPlan
from orchestrator.selection.proxy import ProxyScore
from orchestrator.selection.recall import Recalled


def selection_report(
    plan: SelectionPlan,
    recalled: Sequence[Recalled],
    proxies: Mapping[str, ProxyScore],
    bracket: Bracket,
    journal: Journal,
) -> dict[str, Any]:
    """Everything a person or the report page wants to know, JSON-able.

    Keys: ``target winner test_accuracy validation_accuracy majority_accuracy policy ranking bracket
    rungs recall clusters linkage proxies matrix ledger warnings``. ``bracket`` has one mapping a
    (model, rung): ``model rung score predicted kept``.
    """
    final = next(row for row in reversed(journal.of(bracket.winner)) if row.test is not None)
    warnings = list(plan.warnings)
    if bracket.winner in plan.tagged:
        warnings.append(
            f"the winner {bracket.winner} declares training on {plan.task.name}: its validation "
            "score may be inflated"
        )
    return {
        "target": {
            "name": plan.task.name,
            "labels": list(plan.task.label_names),
            "rows": {s: len(plan.task.split(s)) for s in ("train", "validation", "test")},
        },
        "winner": bracket.winner,
        "test_accuracy": final.test,
        "validation_accuracy": final.validation,
        "majority_accuracy": plan.task.majority_accuracy,
        "policy": plan.policy_name,
        "ranking": _ranking(bracket, recalled),
        "bracket": _bracket_rows(plan, bracket),
        "rungs": _rungs(plan, bracket),
        "recall": [asdict(item) for item in recalled],
        **_clusters(plan),
        "proxies": {model: asdict(score) for model, score in proxies.items()},
        "matrix": plan.matrix.final().astype(object).where(plan.matrix.final().notna(), None)
        .to_dict("index"),
        "ledger": ledger_of(plan, proxies, bracket, journal).summary(),
        "warnings": warnings,
    }  # fmt: skip


def ledger_of(
    plan: SelectionPlan, proxies: Mapping[str, ProxyScore], bracket: Bracket, journal: Journal
) -> Ledger:
    """What was paid, beside fine-tuning every candidate to the end."""
    paid = [row for row in journal.rows if row.validation is not None]
    read = sum(score.rows for score in proxies.values())
    share = read / (len(proxies) * len(plan.task.train)) if proxies else 0.0
    return Ledger(
        candidates=len(plan.packages),
        epochs_each=bracket.stages,
        epochs=len(paid),
        steps=sum(row.steps for row in paid),
        steps_per_epoch=max(row.steps for row in paid),
        proxy_passes=len(proxies),
        proxy_share=share,
    )


def _ranking(bracket: Bracket, recalled: Sequence[Recalled]) -> list[dict[str, Any]]:
    """Winner, then by how long a model stayed and how it stood; failed models last."""

    def curve(model: str) -> list[float]:
        rungs = range(1, bracket.stages + 1)
        return [bracket.observed[model, r] for r in rungs if (model, r) in bracket.observed]

    entries = []
    for place, item in enumerate(recalled):
        rung, reason = bracket.dropped.get(item.model, (0, item.reason))
        status = "dropped" if rung else "not recalled"
        if item.model == bracket.winner:
            rung, reason, status = bracket.stages + 1, "best of the last rung", "winner"
        elif item.model in bracket.failures:
            rung, status = -1, "failed"
        score = bracket.verdicts[rung - 1].scores.get(item.model) if status == "dropped" else None
        order = (-rung, -(score if score is not None else -np.inf), place)
        entry = {
            "model": item.model,
            "status": status,
            "reason": reason,
            "epochs": len(curve(item.model)),
            "validation": curve(item.model),
            "recall_score": item.score,
        }
        entries.append((order, entry))
    ranked = [entry for _, entry in sorted(entries, key=lambda pair: pair[0])]
    return [{"place": place, **entry} for place, entry in enumerate(ranked, start=1)]


def _bracket_rows(plan: SelectionPlan, bracket: Bracket) -> list[dict[str, Any]]:
    rows = []
    for rung, verdict in enumerate(bracket.verdicts, start=1):
        trained = sorted(model for model, at in bracket.observed if at == rung)
        predicted = _predicted(plan, bracket, rung, trained)
        rows += [
            {
                "model": model,
                "rung": rung,
                "score": bracket.observed[model, rung],
                "predicted": predicted.get(model),
                "kept": model in verdict.kept,
            }
            for model in trained
        ]
    return rows


def _rungs(plan: SelectionPlan, bracket: Bracket) -> list[dict[str, Any]]:
    """Pool, survivors and the half-width of the 90 % interval of the predictions, a rung."""
    result = []
    for rung, verdict in enumerate(bracket.verdicts, start=1):
        trained = sorted(model for model, at in bracket.observed if at == rung)
        width = None
        if plan.predictor is not None and len(plan.history.datasets) > MIN_HISTORY_SETS:
            stage = min(rung, plan.history.stages)
            width = conformal_halfwidth(plan.history, stage, plan.history.models)
        result.append(
            {"rung": rung, "trained": trained, "kept": list(verdict.kept), "halfwidth": width}
        )
    return result


def _predicted(
    plan: SelectionPlan, bracket: Bracket, rung: int, trained: Sequence[str]
) -> dict[str, float]:
    """What the predictor said after ``rung``, from the values known then."""
    if plan.predictor is None:
        return {}
    known = {cell: value for cell, value in bracket.observed.items() if cell[1] <= rung}
    return plan.predictor.displayed(known, trained)


def _clusters(plan: SelectionPlan) -> dict[str, Any]:
    clustering = plan.recall.clustering
    if clustering is None:
        return {"clusters": None, "linkage": None}
    heads = sorted(set(plan.recall.heads.values()))
    return {
        "clusters": {
            "groups": [list(group) for group in clustering.clusters()],
            "representatives": heads,
            "threshold": clustering.threshold,
            "silhouette": clustering.silhouette(),
        },
        "linkage": {"models": list(clustering.models), "matrix": clustering.linkage.tolist()},
    }
