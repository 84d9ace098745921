"""Rows of a finished bracket for the report: scores, predictions and their intervals."""

import numpy as np

from orchestrator.selection.halving import Bracket
from orchestrator.selection.planning import SelectionPlan
from orchestrator.selection.results import BracketCell, Rung
from orchestrator.selection.score_predictor import MIN_HISTORY_SETS, conformal_halfwidth


def bracket_cells(plan: SelectionPlan, bracket: Bracket) -> tuple[BracketCell, ...]:
    """One entry per (model, rung), with the prediction from the values known at that rung."""
    cells, score_of, epoch = [], plan.asked.score_of, plan.rungs.epoch
    for rung, verdict in enumerate(bracket.verdicts, start=1):
        trained, predicted = _trained(bracket, rung), dict[str, float]()
        if plan.decider.predictor is not None and epoch(rung):
            observed = bracket.observed.items()
            known = {(m, epoch(at)): y for (m, at), y in observed if at <= rung and epoch(at)}
            predicted = plan.decider.predictor.predict_for_report(known, trained)
        cells += [
            BracketCell(
                model=model,
                rung=rung,
                score=score_of(bracket.observed[model, rung]),
                predicted=score_of(predicted[model]) if model in predicted else None,
                kept=model in verdict.kept,
            )
            for model in trained
        ]
    return tuple(cells)


def bracket_rungs(plan: SelectionPlan, bracket: Bracket) -> tuple[Rung, ...]:
    """One entry per rung. After a first rung in steps there is no prediction, hence no interval."""
    history, rungs = plan.history, []
    enough = plan.decider.predictor is not None and len(history.datasets) >= MIN_HISTORY_SETS
    for rung, verdict in enumerate(bracket.verdicts, start=1):
        width, epoch = None, plan.rungs.epoch(rung)
        if enough and epoch:
            found = conformal_halfwidth(history, min(epoch, history.stages), history.models)
            width = plan.asked.width_of(found) if np.isfinite(found) else None
        policy = "" if rung == bracket.stages else plan.decider.name if epoch else "sh"
        rungs.append(
            Rung(
                rung=rung,
                trained=tuple(_trained(bracket, rung)),
                kept=verdict.kept,
                halfwidth=width,
                policy=policy,
            )
        )
    return tuple(rungs)


def _trained(bracket: Bracket, rung: int) -> list[str]:
    return sorted(model for model, at in bracket.observed if at == rung)
