import random
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import InputError, StageError
from orchestrator.selection.halving import Bracket, fit_to_budget, replay_rows, rung_sizes
from orchestrator.selection.policies.base import POLICIES, choose_policy, halving_sizes
from orchestrator.selection.policies.default import Shrunken
from orchestrator.selection.policies.fast import Fast
from orchestrator.selection.policies.paper import KMeansTrend, PaperFilter
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.results import JournalRow
from orchestrator.selection.score_predictor import ShrunkenPredictor

from .conftest import synthetic_history


def drain(bracket, value):
    """Run a bracket; return the epochs paid."""
    cost = 0
    while not bracket.finished:
        rung = bracket.rung
        for model in bracket.waiting():
            bracket.record(model, rung, value(model, rung))
            cost += 1
    return cost


def by_number(model, rung):
    return int(model[1:]) / 100 + rung / 1000


@pytest.mark.parametrize(
    ("models", "stages", "epochs"), [(40, 5, 77), (10, 5, 19), (30, 4, 55), (10, 4, 18)]
)
def test_plain_halving_costs_what_the_paper_publishes(models, stages, epochs):
    pool = tuple(f"m{i}" for i in range(models))
    bracket = Bracket(pool, stages, Halving())
    assert drain(bracket, by_number) == epochs
    assert bracket.winner == f"m{models - 1}"
    assert sum(halving_sizes(models, stages)) == epochs


def test_survivors_do_not_depend_on_the_order_of_arrival(history):
    policy = Shrunken(ShrunkenPredictor.fit(history))
    noise = {(m, e): random.Random(f"{m}{e}").random() for m in history.models for e in range(1, 5)}
    outcomes = set()
    for seed in range(6):
        bracket = Bracket(history.models, 4, policy)
        shuffler = random.Random(seed)
        while not bracket.finished:
            rung, order = bracket.rung, list(bracket.waiting())
            shuffler.shuffle(order)
            for model in order:
                bracket.record(model, rung, noise[model, rung])
        outcomes.add(tuple(verdict.kept for verdict in bracket.verdicts))
    assert len(outcomes) == 1


def test_no_decision_before_the_rung_is_complete():
    bracket = Bracket(("a", "b", "c"), 2, Halving())
    bracket.record("a", 1, 0.1)
    bracket.record("c", 1, 0.3)
    assert bracket.rung == 1
    assert bracket.pool == ("a", "b", "c")
    bracket.record("b", 1, 0.2)
    assert bracket.rung == 2
    assert bracket.pool == ("c",)
    assert set(bracket.dropped) == {"a", "b"}


def test_a_failed_trial_closes_the_rung_and_is_ranked_last_with_its_reason():
    bracket = Bracket(("a", "b", "c"), 2, Halving())
    bracket.record("a", 1, 0.1)
    bracket.record("b", 1, 0.2)
    bracket.fail("c", "out of memory")
    assert bracket.pool == ("b",)
    assert bracket.dropped["c"] == (1, "failed: out of memory")


def test_a_diverged_model_is_a_failure_not_a_score():
    bracket = Bracket(("a", "b"), 2, Halving())
    bracket.record("a", 1, float("nan"))
    bracket.record("b", 1, 0.2)
    assert bracket.pool == ("b",)
    assert "diverged" in bracket.dropped["a"][1]


def test_all_failing_is_an_error_that_names_every_reason():
    bracket = Bracket(("a", "b"), 2, Halving())
    bracket.fail("a", "disk full")
    with pytest.raises(StageError, match=r"a: disk full; b: no memory"):
        bracket.fail("b", "no memory")


def test_a_value_of_another_rung_or_a_dropped_model_is_refused():
    bracket = Bracket(("a", "b"), 3, Halving())
    with pytest.raises(StageError, match="rung 2, but rung 1"):
        bracket.record("a", 2, 0.5)
    bracket.record("a", 1, 0.1)
    assert not bracket.record("a", 1, 0.9)  # repeated after a resume: the first value stands
    bracket.record("b", 1, 0.2)
    with pytest.raises(StageError, match="rung 2 trains b"):
        bracket.record("a", 2, 0.5)
    with pytest.raises(StageError, match="no winner yet"):
        _ = bracket.winner


def test_a_bracket_rebuilt_from_rows_continues_where_it_stopped():
    values = [("a", 1, 0.4), ("b", 1, None), ("c", 1, 0.3), ("a", 2, 0.5)]
    bracket = Bracket(("a", "b", "c"), 3, Halving())
    replay_rows(
        bracket, [JournalRow(trial=m, rung=r, validation=v, error="lost") for m, r, v in values]
    )
    assert bracket.failures == {"b": "lost"}
    assert bracket.rung == 3
    assert bracket.waiting() == ("a",)


def test_fast_trains_all_once_and_one_to_the_end(history):
    policy = Fast(ShrunkenPredictor.fit(history))
    bracket = Bracket(history.models, 4, policy)
    assert drain(bracket, by_number) == 8 + 3 == sum(policy.sizes(8, 4))


def test_hopeless_models_are_dropped_before_half_and_the_leader_never(history):
    policy = Shrunken(ShrunkenPredictor.fit(history))
    bracket = Bracket(history.models, 4, policy)
    cost = drain(bracket, lambda m, e: 0.9 if m == "m3" else 0.3)
    assert bracket.winner == "m3"
    assert bracket.verdicts[0].kept == ("m3",)
    assert cost == 8 + 3
    assert "chance of beating m3" in bracket.dropped["m0"][1]


@pytest.fixture
def impartial(history):
    """The default policy without any preference among models."""
    predictor = ShrunkenPredictor.fit(history)
    return Shrunken(replace(predictor, mean=np.zeros_like(predictor.mean)))


def test_a_small_pool_takes_the_epochs_of_the_usual_one_where_the_choice_is_open(
    history, impartial
):
    policy = impartial
    late = policy.within(sum(policy.sizes(10, 5)))
    assert policy.sizes(5, 5) == [5, 2, 1, 1, 1]
    assert late.sizes(5, 5) == [5, 5, 5, 3, 1]
    assert policy.sizes(10, 5) == late.sizes(10, 5) == [10, 5, 2, 1, 1]
    assert [late.sizes(1, n) for n in (1, 2)] == [[1], [1, 1]]
    for each, cost in ((policy, 10), (late, 19)):
        bracket = Bracket(history.models[:5], 5, each)
        assert drain(bracket, lambda model, rung: 0.5) == cost == sum(each.sizes(5, 5))


def test_epochs_that_early_drops_save_keep_open_choices(history, impartial):
    bracket = Bracket(history.models, 4, impartial)
    cost = drain(bracket, lambda m, rung: 0.6 if m in ("m2", "m3", "m5") else 0.3)
    assert [len(verdict.kept) for verdict in bracket.verdicts] == [3, 3, 1, 1]  # halving: 4, 2, 1
    assert cost == 8 + 3 + 3 + 1 <= sum(halving_sizes(8, 4))


def test_paper_filter_never_drops_the_best_validated(history):
    policy = PaperFilter(KMeansTrend(history, clusters=3))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        observed = {(m, 1): float(rng.uniform(0.4, 0.7)) for m in history.models}
        verdict = policy.judge(history.models, 1, 4, observed)
        assert max(observed, key=observed.get)[0] in verdict.kept
        assert len(verdict.kept) <= 4
        assert set(verdict.kept) | set(verdict.dropped) == set(history.models)


def test_the_worst_case_stays_within_the_budget(history):
    policy = Shrunken(ShrunkenPredictor.fit(history))
    for budget in range(4, 20):
        size = fit_to_budget(8, 4, policy, budget)
        bracket = Bracket(history.models[:size], 4, policy)
        assert drain(bracket, lambda m, e: 0.5) <= budget
    with pytest.raises(InputError, match="allow at least 4"):
        fit_to_budget(8, 4, policy, 3)


def test_one_stage_and_one_model():
    bracket = Bracket(("a", "b"), 1, Halving())
    assert drain(bracket, lambda m, e: {"a": 0.2, "b": 0.1}[m]) == 2
    assert bracket.winner == "a"
    lone = Bracket(("a",), 3, Halving())
    assert drain(lone, lambda m, e: 0.0) == 3


@pytest.mark.parametrize(
    ("asked", "datasets", "made"),
    [
        ("fast", 16, "fast"),
        ("fast", 15, "default"),
        ("fast", 2, "sh"),
        ("default", 3, "default"),
        ("default", 2, "sh"),
        ("paper", 2, "paper"),
        ("sh", 16, "sh"),
    ],
)
def test_a_policy_with_too_little_history_is_replaced(asked, datasets, made):
    decider = choose_policy(asked, synthetic_history(datasets=datasets))
    assert decider.name == made
    assert type(decider.policy) is POLICIES.component_class(made)
    assert (decider.predictor is None) == (datasets < 3)


def test_finalists_stay_to_the_end_and_are_ranked_by_the_last_rung(history):
    policy = Fast(ShrunkenPredictor.fit(history))
    bracket = Bracket(history.models, 4, policy, finalists=3)
    assert drain(bracket, by_number) == 8 + 3 * 3 == sum(rung_sizes(8, 4, policy, 3))
    assert len(bracket.winners) == len(set(bracket.winners)) == 3
    last = [bracket.observed[model, 4] for model in bracket.winners]
    assert last == sorted(last, reverse=True)
    assert bracket.winner == bracket.winners[0]
    assert set(bracket.dropped) == set(history.models) - set(bracket.winners)


def test_fewer_finalists_are_left_when_models_fail():
    bracket = Bracket(("a", "b", "c"), 2, Halving(), finalists=2)
    bracket.fail("a", "disk full")
    drain(bracket, lambda model, rung: {"b": 0.2, "c": 0.1}[model])
    assert bracket.winners == ("b", "c")


def test_a_border_shrinks_a_rung_or_ends_the_bracket():
    def border(bracket):
        if bracket.rung == 2:
            bracket.shrink(bracket.pool[:1], "the budget ends")
        else:
            bracket.end("the budget ended")

    bracket = Bracket(tuple(f"m{i}" for i in range(6)), 4, Halving(), border=border)
    assert drain(bracket, by_number) == 6 + 1
    assert bracket.finished
    assert (bracket.winner, bracket.ended) == ("m5", "the budget ended")
    assert bracket.dropped["m4"] == (2, "the budget ends")
    assert bracket.waiting() == ()


def test_a_rung_shrinks_to_those_that_were_trained_in_it():
    bracket = Bracket(("a", "b", "c"), 2, Halving())
    bracket.record("a", 1, 0.3)
    bracket.shrink((), "no time is left")
    assert bracket.rung == 2
    assert bracket.pool == ("a",)
    assert set(bracket.dropped) == {"b", "c"}
    with pytest.raises(StageError, match="no model has been trained"):
        Bracket(("a",), 2, Halving()).end("the budget is too small")
