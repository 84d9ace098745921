"""Intervals and paired comparisons against exact results and simulation."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar

from orchestrator.tasks.intervals import (
    compare,
    estimate,
    proportion_bound,
    unseen_share,
)
from orchestrator.tasks.metrics import SumMetric, f1, share
from orchestrator.zoo.gate import rows_needed

ACCURACY = share("accuracy")


def rows_of(right):
    right = np.asarray(right, dtype=np.float64)
    return np.stack([right, np.ones_like(right)], axis=1)


def test_without_a_lost_row_two_percent_need_149_rows():
    assert rows_needed(0.02) == 149
    assert proportion_bound(0, 0, 149) <= 0.02 < proportion_bound(0, 0, 148)
    everything = rows_of(np.ones(148))
    assert compare(ACCURACY, everything, everything).bound > 0.02
    assert compare(ACCURACY, rows_of(np.ones(149)), rows_of(np.ones(149))).bound <= 0.02


@pytest.mark.parametrize(("lost", "gained", "rows"), [(3, 1, 50), (10, 3, 281), (2, 7, 100)])
def test_the_bound_inverts_a_score_test(lost, gained, rows):
    """Tango's statistic with the constrained maximum found by search instead of his formula."""
    bound = proportion_bound(lost, gained, rows)

    def minus_likelihood(p):
        same = 1 - 2 * p - bound
        return -(
            lost * np.log(p + bound) + gained * np.log(p) + (rows - lost - gained) * np.log(same)
        )

    p = minimize_scalar(
        minus_likelihood,
        bounds=(1e-12, (1 - bound) / 2 - 1e-12),
        method="bounded",
        options={"xatol": 1e-14},
    ).x
    statistic = (lost - gained - rows * bound) / np.sqrt(rows * (2 * p + bound - bound**2))
    assert statistic == pytest.approx(-norm.ppf(0.95), abs=1e-4)


@pytest.mark.parametrize(("share_lost", "share_gained"), [(0.02, 0.0), (0.03, 0.01), (0.05, 0.05)])
def test_the_bound_holds_in_95_of_100_experiments(share_lost, share_gained):
    rng = np.random.default_rng(11)
    rows, tries = 200, 4000
    drawn = rng.multinomial(
        rows, [share_lost, share_gained, 1 - share_lost - share_gained], size=tries
    )
    known: dict[tuple[int, int], float] = {}
    covered = 0
    for lost, gained, _ in drawn:
        key = (int(lost), int(gained))
        known.setdefault(key, proportion_bound(*key, rows))
        covered += known[key] >= share_lost - share_gained - 1e-12
    assert covered / tries >= 0.94


def test_mcnemar_is_exact():
    rng = np.random.default_rng(2)
    parent, child = rng.random(120) < 0.8, rng.random(120) < 0.7
    found = compare(ACCURACY, rows_of(parent), rows_of(child))
    table = [
        [np.sum(parent & child), np.sum(parent & ~child)],
        [np.sum(~parent & child), np.sum(~parent & ~child)],
    ]
    assert found.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found.lost, found.gained) == (table[0][1], table[1][0])
    assert found.drop == pytest.approx(parent.mean() - child.mean())
    assert found.low <= found.drop <= found.high <= 1


def test_an_interval_covers_and_is_the_same_every_time():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        rows = rows_of(rng.random(150) < 0.7)
        found = estimate(ACCURACY, rows)
        assert found == estimate(ACCURACY, rows)
        covered += found.low <= 0.7 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_perfect_score_is_not_certain():
    found = estimate(ACCURACY, rows_of(np.ones(80)))
    z = norm.ppf(0.975)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(1 / (1 + z**2 / 80))


def test_a_metric_that_no_row_changes_has_a_floor():
    metric = SumMetric("f1", f1)
    rows = np.ones((30, 3))
    found = compare(metric, rows, rows)
    assert found.drop == 0
    assert found.bound == pytest.approx(unseen_share(30))


def test_a_smaller_error_is_no_drop():
    metric = SumMetric("mae", lambda sums: sums[..., 0] / sums[..., 1], higher_is_better=False)
    parent, child = rows_of(np.full(40, 2.0)), rows_of(np.full(40, 1.0))
    found = compare(metric, parent, child)
    assert found.drop == -1
    assert (found.lost, found.gained) == (0, 40)


def test_rows_must_be_the_same():
    with pytest.raises(ValueError, match="not of equal rows"):
        compare(ACCURACY, rows_of([1, 0]), rows_of([1]))
