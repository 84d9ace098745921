"""Ties: files of scores per row, paired tests, their rates of false ties and differences."""

import numpy as np
import pytest

from orchestrator.errors import IntegrityError, StageError
from orchestrator.selection.ties.paired_tests import corrected_p_values, paired_p_value
from orchestrator.selection.ties.row_scores import read_row_scores, row_scores, write_row_scores
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
