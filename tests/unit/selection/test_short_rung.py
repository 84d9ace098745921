"""A first rung of a few optimizer steps: bracket, costs, trials, plan and report; without Ray."""

import random
from itertools import pairwise

import pytest
from safetensors.torch import load_file

from orchestrator.errors import ConfigError, InputError
from orchestrator.report.bracket import bracket_blocks
from orchestrator.report.page import Note, Table
from orchestrator.selection.card_rows import card_rows
from orchestrator.selection.costs.clock import RunClock
from orchestrator.selection.costs.config import BudgetConfig
from orchestrator.selection.costs.epoch_times import EpochTimes
from orchestrator.selection.costs.limits import BudgetLimit
from orchestrator.selection.halving import Bracket, fit_to_budget, replay_rows, rung_sizes
from orchestrator.selection.outcome import selection_report
from orchestrator.selection.planning import describe_selection, plan_selection
from orchestrator.selection.policies.default import Shrunken
from orchestrator.selection.policies.fast import Fast
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.policies.short_rung import in_rungs
from orchestrator.selection.replay.methods import ReplaySettings
from orchestrator.selection.results import JournalRow, Recalled
from orchestrator.selection.rungs import Rungs
from orchestrator.selection.score_predictor import ShrunkenPredictor
from orchestrator.selection.trials import loading
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.rates import extra_epochs
from orchestrator.selection.trials.single import FinishTrial
from orchestrator.storage import RunFolder
from tests.support.candidates import FINE_TUNE, TARGET, make_world, select_job, spec

STEPS = 9
"""Optimizer steps of an epoch on the small target."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), encoders=("bert", "bert-two", "conv"))


def drain(bracket, value):
    while not bracket.finished:
        rung = bracket.rung
        for model in bracket.waiting():
            bracket.record(model, rung, value(model, rung))


def test_rungs_are_the_steps_of_whole_epochs_cut_once():
    for epochs in (1, 2, 4):
        for first in (None, *range(1, STEPS)):
            rungs = Rungs(epochs, first, STEPS)
            ends = [rungs.steps_after(rung) for rung in range(rungs.count + 1)]
            assert (ends[0], ends[-1]) == (0, epochs * STEPS)
            taken = [after - before for before, after in pairwise(ends)]
            assert taken == pytest.approx([STEPS * share for share in rungs.shares()])
            assert [rungs.trained(r) * STEPS for r in range(len(ends))] == pytest.approx(ends)
    assert [Rungs(2, 4).name(rung) for rung in (1, 2, 3)] == ["4 steps", "epoch 1", "epoch 2"]


@pytest.mark.parametrize("policy", [Shrunken, Fast])
def test_after_the_better_half_the_policy_decides_as_without_a_short_rung(history, policy):
    chosen = policy(ShrunkenPredictor.fit(history))
    rungs = Rungs(4, 3, STEPS)
    for seed in range(10):
        noise = random.Random(seed)
        scores = {(m, e): noise.random() for m in history.models for e in range(5)}
        bracket = Bracket(history.models, rungs.count, in_rungs(chosen, rungs))
        drain(bracket, lambda model, rung: scores[model, rung - 1])  # noqa: B023
        half = sorted(history.models, key=lambda model: -scores[model, 0])[:4]
        assert list(bracket.verdicts[0].kept) == half
        plain = Bracket(tuple(half), 4, chosen)
        drain(plain, lambda model, rung: scores[model, rung])  # noqa: B023
        assert bracket.verdicts[1:] == plain.verdicts
    reason = bracket.dropped[next(m for m in history.models if m not in half)][1]
    assert "by validation score after 3 steps" in reason


def test_one_epoch_still_has_a_choice_after_the_short_rung():
    rungs = Rungs(1, 2, STEPS)
    judge = in_rungs(Halving(), rungs)
    bracket = Bracket(("a", "b", "c", "d"), rungs.count, judge, finalists=2)
    drain(bracket, lambda model, rung: "abcd".index(model) * (1 if rung == 1 else -1))
    assert bracket.winners == ("c", "d")
    assert rung_sizes(4, 2, judge, 3) == [4, 3]


def test_the_largest_pool_counts_parts_of_epochs(history):
    fast, rungs = Fast(ShrunkenPredictor.fit(history)), Rungs(3, 3, STEPS)
    judge = in_rungs(fast, rungs)
    assert judge.sizes(8, 4) == [8, 4, 1, 1]
    assert judge.sizes(4, 3) == [4, 1, 1]  # the short rung is over
    # 8 x 1/3 + 4 x 2/3 + 1 + 1 = 7 1/3 epochs
    assert fit_to_budget(8, 4, judge, 8, shares=rungs.shares()) == 8
    assert fit_to_budget(8, 4, judge, 7, shares=rungs.shares()) == 7
    with pytest.raises(InputError, match="one model for 3 epochs; allow at least 3"):
        fit_to_budget(8, 4, judge, 2, shares=rungs.shares())
    unread = Rungs(3, 3)
    assert sum(unread.shares()) == 3
    assert extra_epochs(3, 8, 1) == 2 / 8
    assert extra_epochs(3, 8, 5) == extra_epochs(3, 8) == 2 * 2 / 8


def row(model, rung, score, rungs, seconds=1.0):
    steps = rungs.steps_after(rung) - rungs.steps_after(rung - 1)
    test = score if rung == rungs.count else None
    share = rungs.share(rung)
    fields = {"steps": steps, "epochs": share, "seconds": seconds, "test": test}
    return JournalRow(trial=model, rung=rung, validation=score, **fields)


@pytest.mark.parametrize(
    ("budget", "trained"),
    [
        ({"steps": 72}, [12, 6, 3]),  # 12 x 3 + 6 x 6
        ({"steps": 90}, [12, 6, 3, 1]),
        ({"epochs": 8}, [12, 6, 3]),
    ],
)
def test_a_budget_is_hard_at_the_border_of_the_short_rung(tmp_path, budget, trained):
    rungs, models = Rungs(3, 3, STEPS), tuple(f"m{i:02d}" for i in range(12))
    with RunFolder.open(select_job(tmp_path, matrix=None), "select") as folder:
        rows = []
        limit = BudgetLimit(
            BudgetConfig(**budget), RunClock(folder, 2), EpochTimes({}), folder, rows, rungs
        )
        judge = in_rungs(Halving(), rungs)
        bracket = Bracket(models, rungs.count, judge, border=limit.open_rung)
        limit.open_rung(bracket)
        while not bracket.finished:
            rung = bracket.rung
            for model in bracket.waiting():
                rows.append(row(model, rung, int(model[1:]) / 100, rungs))
                bracket.record(model, rung, rows[-1].validation)
        spent = sum(each.steps for each in rows)
        assert spent <= budget.get("steps", 9 * budget.get("epochs", 0))
        again = Bracket(models, rungs.count, judge, border=limit.open_rung)
        limit.open_rung(again)
        replay_rows(again, rows)
    assert again.verdicts == bracket.verdicts
    assert again.pool == bracket.pool


def test_a_part_of_an_epoch_is_scaled_without_its_evaluation():
    times = EpochTimes({"b": 8.0}, steps_per_epoch=STEPS)
    short = {"trial": "a", "rung": 1, "validation": 0.5, "steps": 3, "epochs": 1 / 3}
    times.add_rows([JournalRow(**short, seconds=3.0, evaluation_s=1.0)])
    assert times.of("a") == pytest.approx(3 * 2.0 + 1.0)
    assert times.rung(["a"], 1, 2 / 3) == pytest.approx(2 * 2.0 + 1.0)
    times.overhead_s = 0.5
    rates = times.rung(["a"], 1, 2 * 2 / 9, 3)  # three rates of two steps, one of them goes on
    assert rates == pytest.approx(2 * 2 / 9 * 6.0 + 3 * 1.5)
    chosen = {**short, "epochs": 1.0, "steps": 7, "learning_rate": 1e-3}
    times.add_rows([JournalRow(**chosen, seconds=8.0, evaluation_s=1.0)])
    assert times.of("a") == pytest.approx(9 + 1.0)  # two of nine steps were the rate's


def payload(world, state, **changes):
    fields = {"trial": "bert/v0001", "package": "bert/v0001", "zoo": str(world / "zoo")}
    fields |= {"task": spec(world, TARGET), "fine_tune": FINE_TUNE, "seed": 3}
    fields |= {"state": str(state), "keep_package": True, "first_rung_steps": 4}
    return TrialPayload.model_validate({**fields, **changes})


def test_training_ends_with_the_bits_of_whole_epochs(world, tmp_path):
    whole = FineTuneTrial(payload(world, tmp_path / "whole", first_rung_steps=None))
    expected = [whole.step() for _ in range(3)]
    assert whole.done
    first = FineTuneTrial(payload(world, tmp_path / "short"))
    rows = [first.step()]
    loading._held.clear()  # killed: the others go on in another process
    second = FineTuneTrial(payload(world, tmp_path / "short"))
    assert second.step().finished_at == rows[0].finished_at, "nothing is trained twice"
    rows += [second.step()]
    second.save(tmp_path)
    third = FineTuneTrial(payload(world, tmp_path / "short"))
    third.load(tmp_path)
    rows += [third.step(), third.step()]
    assert (third.done, [each.rung for each in rows]) == (True, [1, 2, 3, 4])
    assert [each.steps for each in rows] == [4, STEPS - 4, STEPS, STEPS]
    assert [each.epochs for each in rows] == pytest.approx([4 / 9, 5 / 9, 1, 1])
    found = [(each.validation, each.loss, each.test) for each in rows[1:]]
    assert found == [(each.validation, each.loss, each.test) for each in expected]
    weights, others = (
        load_file(tmp_path / name / "package" / "model.safetensors") for name in ("whole", "short")
    )
    assert weights.keys() == others.keys()
    assert all(weights[name].equal(others[name]) for name in weights)
    assert all(0 < each.evaluation_s < each.seconds for each in rows)


@pytest.mark.parametrize(("first", "share"), [(4, 2), (1, 1)])
def test_learning_rates_are_tried_within_the_short_rung(world, tmp_path, first, share):
    rates = (1e-6, 5e-3, 1e-5)
    fields = {"learning_rates": rates, "fine_tune": {**FINE_TUNE, "learning_rate": None}}
    trial = FineTuneTrial(payload(world, tmp_path / "rates", first_rung_steps=first, **fields))
    rows = [trial.step(), trial.step()]
    assert [each.steps for each in rows[0].rates] == [share] * 3
    assert rows[0].steps + share == first
    assert rows[1].steps == STEPS - first
    alone = {**FINE_TUNE, "learning_rate": rows[0].learning_rate}
    plain = FineTuneTrial(payload(world, tmp_path / "plain", fine_tune=alone))
    plain.step()
    assert plain.step().loss == rows[1].loss


def test_a_candidate_that_ends_after_the_short_rung_becomes_a_package(world, tmp_path):
    row = FineTuneTrial(payload(world, tmp_path / "state")).step()
    last = FinishTrial(payload(world, tmp_path / "state", start=1)).step()
    assert (last.rung, last.validation, last.steps) == (1, row.validation, 0)
    assert (tmp_path / "state" / "package" / "model.safetensors").is_file()


def test_a_first_rung_of_an_epoch_or_more_is_refused(world, tmp_path):
    for steps in (0, -3):
        with pytest.raises(ConfigError, match="first_rung_steps"):
            select_job(world, halving={"first_rung_steps": steps})
    for steps in (STEPS, 100):
        job = select_job(world, matrix=None, halving={"first_rung_steps": steps})
        for plan in (plan_selection, describe_selection):
            with pytest.raises(InputError, match=rf"{steps} .* has 9 optimizer steps. Use 1 to 8"):
                plan(job)
    lone = FineTuneTrial(payload(world, tmp_path / "state", first_rung_steps=STEPS)).step()
    assert "is not less than an epoch, which has 9 optimizer steps" in lone.error
    with pytest.raises(InputError, match="Use null"):
        Rungs(2, 1, 1).require_shorter()
    with pytest.raises(InputError, match="none after 4 steps"):
        ReplaySettings(first_rung_steps=4).check(None)


def test_the_plan_shows_the_short_rung_and_its_cost(world):
    halving = {"first_rung_steps": 3, "policy": "sh"}
    job = select_job(world, matrix=None, halving=halving, recall={"mode": "all"})
    text = describe_selection(job)
    assert "halving: 3 steps of 3, then epochs of at most 1 + 1 + 1 = 3.6667 epochs" in text
    table = [line.split() for line in text.splitlines() if "rung " in line or "at most  " in line]
    assert [each[-5:-1] for each in table if each[0] == "rung"] == [
        ["steps", "3", "1", "9"],
        ["1", "1", "0.6667", "6"],
        ["2", "1", "1", "9"],
        ["3", "1", "1", "9"],
    ]
    assert table[-1][2:4] == ["3.6667", "33"]
    assert plan_selection(job).judge.sizes(3, 4) == [3, 1, 1, 1]


def test_results_and_report_name_the_steps(world, tmp_path):
    halving = {"first_rung_steps": 3, "policy": "sh"}
    job = select_job(world, matrix=None, halving=halving, recall={"mode": "all"})
    plan = plan_selection(job)
    bracket = Bracket(tuple(sorted(plan.packages)), plan.rungs.count, plan.judge)
    journal = Journal(tmp_path / "t.jsonl")
    while not bracket.finished:
        rung = bracket.rung
        for model in bracket.waiting():
            score = 0.5 + 0.1 * sorted(plan.packages).index(model) + 0.01 * rung
            journal.append(row(model, rung, score, plan.rungs))
            bracket.record(model, rung, score)
    recalled = [Recalled(model=m, score=0.0, reason="all", kept=True) for m in plan.packages]
    report = selection_report(plan, recalled, {}, bracket, journal, package="chosen")
    assert report.first_rung_steps == report.in_full()["first_rung_steps"] == 3
    assert [each.epochs for each in report.ranking] == [3, 0.3333, 0.3333]
    assert [len(each.validation) for each in report.ranking] == [4, 1, 1]
    ledger = report.ledger
    assert (ledger.epochs, ledger.steps) == (3.6667, 33)
    assert (ledger.brute_force_epochs, ledger.brute_force_steps) == (9, 9 * STEPS)
    assert sum(each.epochs for each in ledger.rows) == pytest.approx(3.6667, abs=1e-3)
    assert [each.policy for each in report.rungs] == ["sh", "sh", "sh", ""]
    picture, note, table = bracket_blocks(report)
    assert isinstance(table, Table)
    assert table.columns == ("model", "3 steps", "epoch 1", "epoch 2", "epoch 3")
    assert isinstance(note, Note)
    assert "After the first 3 steps the better half" in note.text
    assert "3 steps" in picture.svg
    assert ("policy", "sh; the better half after 3 steps") in card_rows(report, 1)
