"""Two copies of one package under two names, trained and reported: always tied."""

import json
import shutil

from orchestrator.selection.halving import Bracket
from orchestrator.selection.outcome import selection_report
from orchestrator.selection.planning import plan_selection
from orchestrator.selection.recall import recall_candidates
from orchestrator.selection.ties.row_scores import read_row_scores
from orchestrator.selection.ties.tie_breaker import TieBreaker, TiesConfig, Traits, ties_in_words
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.selection.trials.journal import Journal
from tests.support.candidates import make_world, select_job


def test_copies_under_two_names_are_reported_tied(tmp_path):
    world = make_world(tmp_path, encoders=("bert", "conv"))
    copy = world / "zoo" / "twin" / "v0001"
    shutil.copytree(world / "zoo" / "bert" / "v0001", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "name": "twin"}))
    config = select_job(world, matrix=None, recall={"mode": "all"})
    plan = plan_selection(config)
    recalled = recall_candidates(plan.recall, {}, mode="all", predictor=None, pool=plan.pool)
    traits = {ref: Traits.of(package) for ref, package in plan.packages.items()}
    ties = TieBreaker(TiesConfig(), tmp_path / "correct", traits)
    pool = tuple(item.model for item in recalled)
    journal, bracket = Journal(tmp_path / "t.jsonl"), Bracket(pool, 3, plan.decider.policy, ties)
    trials = {
        model: FineTuneTrial(
            TrialPayload(
                trial=model,
                package=model,
                zoo=plan.zoo,
                task=plan.spec,
                fine_tune=config.fine_tune,
                seed=3,
                state=str(tmp_path / "states" / model),
                row_scores=str(ties.folder),
            )
        )
        for model in pool
    }
    while not bracket.finished:
        for model in bracket.waiting():
            row = trials[model].step()
            journal.append(row.journal_row())
            bracket.record(model, row.rung, row.validation)
    rows = [read_row_scores(ties.folder, model, 1) for model in ("bert/v0001", "twin/v0001")]
    assert rows[0].tolist() == rows[1].tolist()
    assert bracket.observed["bert/v0001", 1] == bracket.observed["twin/v0001", 1]
    for winner, other in (("bert/v0001", "twin/v0001"), ("twin/v0001", "bert/v0001")):
        assert ties.tied(winner, {winner: 1, other: 1})[other] == 1.0
    report = selection_report(plan, recalled, {}, bracket, journal, ties)
    if report.winner in {"bert/v0001", "twin/v0001"}:
        (twin,) = {"bert/v0001", "twin/v0001"} - {report.winner}
        assert twin in report.tied_with_winner
        assert twin in ties_in_words(report.winner, report.tied_with_winner)
