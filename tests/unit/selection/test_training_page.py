"""Section of selection with real training: costs of a choice, and verdicts on its figures."""

import importlib
from pathlib import Path

import pytest

from tests.unit.test_benchmark_pages import problems_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
BEST, OTHER = ("one", 1e-3), ("two", 1e-3)


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("recorded_trials", "played_methods", "training_page")
    return {name: importlib.import_module(f"peers.{name}") for name in names}


def outcomes(peers, paid, winner):
    curve = peers["recorded_trials"].Curve
    curves = {
        BEST: curve(validation=(0.5, 0.8), test=0.80, steps=(10, 10), seconds=(2, 3), startup=1),
        OTHER: curve(validation=(0.6, 0.7), test=0.76, steps=(10, 10), seconds=(4, 5), startup=1),
    }
    return peers["played_methods"].outcome(winner, paid, curves, proxies=0.5)


def test_a_choice_costs_each_start_every_epoch_that_was_paid_and_the_proxies(peers):
    found = outcomes(peers, {BEST: 2, OTHER: 1}, BEST)
    assert (found.test, found.validation, found.steps) == (0.8, 0.8, 30)
    assert found.seconds == 0.5 + (1 + 2 + 3) + (1 + 4)


@pytest.mark.parametrize(
    ("winner", "paid", "missed"),
    [
        (BEST, {BEST: 2, OTHER: 1}, ["steps", "seconds"]),  # 75 % of the steps
        (OTHER, {OTHER: 2}, ["points", "steps", "seconds"]),
    ],
)
def test_each_goal_is_judged_by_its_figure_and_for_the_worst_target(peers, winner, paid, missed):
    page, cases = peers["training_page"], [("words", 0), ("words", 1)]
    brute = outcomes(peers, {BEST: 2, OTHER: 2}, BEST)
    found = {page.OURS: dict.fromkeys(cases, outcomes(peers, paid, winner))}
    found[page.BRUTE] = dict.fromkeys(cases, brute)
    text = page.section(found, ["Zoo."], [page.goal_found(found=True)])
    assert problems_of(text) == []
    wrong = [line for line in text.splitlines() if line.endswith("**missed**")]
    assert len(wrong) == 2 * len(missed)
    assert all(any(word in line for line in wrong) for word in missed)
