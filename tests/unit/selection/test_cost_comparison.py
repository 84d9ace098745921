"""Epochs and seconds that other methods would have cost."""

import pytest

from orchestrator.selection.costs.comparison import (
    asha_epochs,
    compare_costs,
    hyperband_epochs,
)
from orchestrator.selection.costs.results import Ledger


def test_epochs_are_those_of_the_replays_on_published_curves():
    """39 models of 5 epochs; figures of `benchmarks/selection.md`, mean over 20 targets."""
    costs = {
        cost.method: cost.epochs
        for cost in compare_costs(Ledger.of(candidates=39, epochs_each=5, epochs=17))
    }
    assert costs["this selection"] == 17
    assert costs["brute force"] == 195
    assert costs["successive halving"] == 73
    assert costs["ASHA"] == pytest.approx(85.6, rel=0.1)
    assert costs["HyperBand"] == pytest.approx(120.2, rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 5, 41, 3000])
@pytest.mark.parametrize("stages", [1, 2, 3, 9, 10])
def test_no_method_costs_more_than_brute_force_or_less_than_one_winner(count, stages):
    for epochs in (asha_epochs(count, stages), hyperband_epochs(count, stages)):
        assert count + stages - 1 <= epochs <= count * stages


def test_epochs_of_one_candidate_are_a_full_training():
    costs = compare_costs(Ledger.of(candidates=1, epochs_each=4, epochs=4))
    assert {cost.epochs for cost in costs} == {4}
    assert all(cost.seconds is None and cost.money is None for cost in costs)


def test_seconds_come_from_epochs_that_took_slots():
    ledger = Ledger.of(candidates=3, epochs_each=2, epochs=3).model_copy(
        update={
            "wall_s": 10.0,
            "slots": 2.0,
            "rows": Ledger.model_validate(
                {
                    **Ledger.of(candidates=3, epochs_each=2, epochs=3).totals(),
                    "rows": [
                        {"phase": "rung", "model": "a", "epochs": 1, "seconds": 1, "slots": 2},
                        {"phase": "rung", "model": "b", "epochs": 1, "seconds": 4},
                        {"phase": "rung", "model": "b", "epochs": 1, "seconds": 4, "startup_s": 1},
                        {"phase": "idle", "seconds": 9},
                    ],
                }
            ).rows,
        }
    )
    ours, brute_force, halving, *_ = compare_costs(ledger, "b")
    assert (ours.seconds, ours.waiting_s) == (10, 10)
    assert brute_force.seconds == 6 * (2 + 4) / 2  # mean of a: 2, b: 4; c was not measured
    assert halving.epochs == 4
    assert halving.seconds == 3 * 3 + 4  # an epoch of each, and one more of the winner
