"""Ties: files of scores per row, paired tests, their rates of false ties and differences."""

import numpy as np
import pytest

from orchestrator.errors import IntegrityError, StageError
from orchestrator.selection.halving import Bracket
from orchestrator.selection.matrix.history import History
from orchestrator.selection.policies.base import Verdict, choose_policy
from orchestrator.selection.ties.paired_tests import corrected_p_values, paired_p_value
from orchestrator.selection.ties.row_scores import read_row_scores, row_scores, write_row_scores
from orchestrator.selection.ties.tie_breaker import TieBreaker, TiesConfig, Traits
from orchestrator.tasks.metrics import mean, share


def test_scores_come_back_and_no_two_trials_share_a_file(tmp_path):
    right, loss = np.array([True, False, True]), np.array([0.5, -1.0])
    for trial, scores in (("a/v0001", right), ("a_v0001", ~right), ("b", loss)):
        write_row_scores(tmp_path, trial, 1, scores)
    assert read_row_scores(tmp_path, "a/v0001", 1).tolist() == right.tolist()
    assert read_row_scores(tmp_path, "a_v0001", 1).tolist() == (~right).tolist()
    assert read_row_scores(tmp_path, "b", 1).tolist() == loss.tolist()
    assert read_row_scores(tmp_path, "b", 2) is None
    with pytest.raises(ValueError, match="not one per row"):
        write_row_scores(tmp_path, "b", 1, np.zeros((2, 2)))
    (tmp_path / "b-1.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(IntegrityError, match="not readable as scores"):
        read_row_scores(tmp_path, "b", 1)


def test_scores_of_a_metric_are_larger_where_a_row_is_better():
    assert row_scores(share("accuracy"), np.array([[1.0, 1.0], [0.0, 1.0]])).tolist() == [
        True,
        False,
    ]
    errors = mean("mae", higher_is_better=False)
    assert row_scores(errors, np.array([[2.0, 1.0], [1.0, 1.0]])).tolist() == [-2.0, -1.0]


def test_mcnemar_and_wilcoxon_are_those_of_the_literature():
    one, two = np.zeros(20, dtype=bool), np.zeros(20, dtype=bool)
    one[:9], two[9:10] = True, True  # 9 rows lost, 1 gained: p = 2 (1 + 10) / 2 ** 10
    assert paired_p_value(one, two) == pytest.approx(22 / 1024)
    difference = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # all of one sign: p = 2 / 2 ** 5
    assert paired_p_value(difference, np.zeros(5)) == pytest.approx(2 / 32)
    assert paired_p_value(one, one) == paired_p_value(difference, difference) == 1.0
    with pytest.raises(StageError, match="different rows"):
        paired_p_value(one, two[:-1])


def test_holm_counts_every_pair_because_the_winner_was_chosen():
    got = corrected_p_values({"a": 0.01, "b": 0.004, "c": 0.9})
    assert got == pytest.approx({"b": 0.004 * 6, "a": 0.01 * 5, "c": 1.0})


def differ(scores, alpha=0.05):
    """Models that a paired test tells apart from the best one."""
    best = max(scores, key=lambda model: scores[model].mean())
    p_values = {m: paired_p_value(scores[best], s) for m, s in scores.items() if m != best}
    return {m for m, p in corrected_p_values(p_values).items() if p <= alpha}


def drawn(rng, accuracies, rows, *, exact):
    """Rows of one difficulty shared by all models, right or wrong or with a score."""
    difficulty = rng.normal(0, 0.1, rows)
    chances = {m: np.clip(a + difficulty, 0, 1) for m, a in accuracies.items()}
    if exact:
        return {m: rng.random(rows) < chance for m, chance in chances.items()}
    return {m: chance + rng.normal(0, 0.3, rows) for m, chance in chances.items()}


@pytest.mark.parametrize("exact", [True, False])
def test_equal_models_are_rarely_told_apart(exact):
    rng = np.random.default_rng(0)
    equal = {f"m{i}": 0.8 for i in range(6)}
    false = sum(bool(differ(drawn(rng, equal, 300, exact=exact))) for _ in range(100))
    assert false <= 7


@pytest.mark.parametrize("exact", [True, False])
def test_a_model_ten_points_worse_is_rarely_called_tied(exact):
    rng = np.random.default_rng(1)
    models = {"best": 0.85, "near": 0.85, "far": 0.75}
    missed = sum("far" not in differ(drawn(rng, models, 1000, exact=exact)) for _ in range(50))
    assert missed <= 2


def breaker(folder, traits, **settings):
    return TieBreaker(TiesConfig(**settings), folder, traits)


def traits(size=100, licence="mit", content="", latency_ms=None):
    return Traits(size, licence, content or str(size), latency_ms)


def write_pool(folder, right, rung=1, rows=200):
    """Scores of a pool: model to how many of the rows it has right, the first ones."""
    for model, count in right.items():
        write_row_scores(folder, model, rung, np.arange(rows) < count)
    return {(model, rung): count / rows for model, count in right.items()}


def verdict(observed, rung=1):
    scores = {model: value for (model, at), value in observed.items() if at == rung}
    order = sorted(scores, key=lambda model: -scores[model])
    return Verdict((order[0],), dict.fromkeys(order[1:], "place"), scores)


def test_among_ties_the_smaller_wins_within_the_margin(tmp_path):
    observed = write_pool(tmp_path, {"large": 160, "small": 159, "tiny": 157, "far": 100})
    sizes = {"large": 400, "small": 40, "tiny": 4, "far": 1}
    found = breaker(tmp_path, {m: traits(size) for m, size in sizes.items()})
    settled = found.settle(verdict(observed), 1, observed)
    assert settled.kept == ("small",)  # tiny is tied too, but 1.5 points behind
    assert "tied with small" in settled.dropped["large"]
    assert set(settled.dropped) == {"large", "tiny", "far"}
    assert set(found.tied("large", dict.fromkeys(sizes, 1))) == {"small", "tiny"}
    for settings in ({"prefer": []}, {"margin": 0.0}):
        kept = breaker(tmp_path, found.traits, **settings).settle(verdict(observed), 1, observed)
        assert kept.kept == ("large",)


def test_the_order_of_preference_is_the_one_asked_for(tmp_path):
    observed = write_pool(tmp_path, {"a": 100, "b": 100, "c": 100})
    facts = {
        "a": traits(10, "gpl-3.0", "a", 5.0),
        "b": traits(20, "Apache-2.0", "b", 9.0),
        "c": traits(30, None, "c", 1.0),
    }
    for prefer, winner in (("size", "a"), ("licence", "b"), ("latency", "c")):
        found = breaker(tmp_path, facts, prefer=[prefer])
        assert found.settle(verdict(observed), 1, observed).kept == (winner,)


def test_copies_are_tied_whatever_the_rows_say(tmp_path):
    write_pool(tmp_path, {"winner": 200, "copy": 10, "other": 10})
    same = {"winner": traits(content="x"), "copy": traits(content="x"), "other": traits(7)}
    assert breaker(tmp_path, same).tied("winner", dict.fromkeys(same, 1)) == {"copy": 1.0}
    assert breaker(tmp_path / "no files", same).tied("winner", {"winner": 1}) == {"copy": 1.0}


def test_candidates_are_compared_at_their_last_common_rung(tmp_path):
    write_pool(tmp_path, {"winner": 100, "early": 100}, rung=1)
    write_pool(tmp_path, {"winner": 190, "late": 100}, rung=2)
    found = breaker(tmp_path, {})
    assert list(found.tied("winner", {"winner": 2, "early": 1, "late": 2})) == ["early"]


def test_halving_settles_ties_only_where_one_candidate_is_left(tmp_path):
    for rung in (1, 2):
        write_pool(tmp_path, {"a": 120, "b": 120, "c": 100, "d": 90}, rung)
    sizes = {"a": 3, "b": 2, "c": 1, "d": 1}
    found = breaker(tmp_path, {m: traits(size) for m, size in sizes.items()})
    decider = choose_policy("sh", History.empty(list(sizes), 2))
    bracket = Bracket(tuple(sizes), 2, decider.policy, found)
    for rung in (1, 2):
        for model in bracket.waiting():
            bracket.record(model, rung, {"a": 0.6, "b": 0.6, "c": 0.5, "d": 0.45}[model])
    assert bracket.verdicts[0].kept == ("a", "b")
    assert bracket.winner == "b"
