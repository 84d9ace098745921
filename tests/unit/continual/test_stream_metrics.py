"""Figures of a stream, computed by hand; and the replay buffer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.continual.metrics import (
    as_rows,
    average_accuracy,
    backward_transfer,
    figures_of,
    forgetting,
)
from orchestrator.continual.parts.replay import buffer_size, choose_by_kmeans, choose_rows
from orchestrator.data.rows.rows import Rows
from tests.support.stream_metrics import forward_transfer, intransigence

NAN = float("nan")
R = np.array([[0.9, NAN, NAN], [0.95, 0.8, NAN], [0.7, 0.6, 0.5]])


def test_figures_by_hand():
    assert average_accuracy(R) == pytest.approx(0.6)
    assert backward_transfer(R) == pytest.approx(((0.7 - 0.9) + (0.6 - 0.8)) / 2)
    assert forgetting(R) == pytest.approx(((0.95 - 0.7) + (0.8 - 0.6)) / 2)
    assert intransigence(R, np.array([1.0, 0.9, 0.6])) == pytest.approx(0.1)
    assert figures_of(R).learning_accuracy == pytest.approx((0.9 + 0.8 + 0.5) / 3)


def test_a_single_task_forgets_nothing_that_can_be_measured():
    figures = figures_of(np.array([[0.8]]))
    assert (figures.average_accuracy, figures.forgetting) == (0.8, None)
    assert figures.backward_transfer is None


def test_joint_training_has_a_last_row_only():
    figures = figures_of(np.array([[NAN, NAN], [0.8, 0.6]]))
    assert figures.average_accuracy == pytest.approx(0.7)
    assert (figures.forgetting, figures.learning_accuracy) == (None, None)


def test_forward_transfer_needs_the_upper_triangle():
    assert forward_transfer(R, np.full(3, 0.3)) is None
    full = np.array([[0.9, 0.4], [0.7, 0.8]])
    assert forward_transfer(full, np.array([0.2, 0.25])) == pytest.approx(0.15)


def test_rows_for_json():
    assert as_rows(R)[0] == (0.9, None, None)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_forgetting_is_never_below_minus_backward_transfer(values):
    matrix = np.array(values).reshape(3, 3)
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12


def rows(count):
    return Rows([f"text {i}" for i in range(count)], None, np.arange(count) % 3)


def test_a_buffer_has_at_least_one_row_per_class():
    assert [buffer_size(n, 0.01, 3) for n in (1000, 50, 2)] == [10, 3, 2]


def test_random_choice_depends_on_the_seed_alone():
    one, again = (choose_rows(rows(200), 0.05, 3, 5, None) for _ in range(2))
    assert one.tolist() == again.tolist()
    assert len(set(one.tolist())) == 10
    assert one.tolist() != choose_rows(rows(200), 0.05, 3, 6, None).tolist()


def test_kmeans_takes_one_row_near_each_center():
    rng = np.random.default_rng(0)
    centers = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    features = np.concatenate([c + rng.normal(0, 0.1, (20, 2)) for c in centers])
    chosen = choose_by_kmeans(features.astype(np.float32), 4, 1)
    assert sorted(index // 20 for index in chosen) == [0, 1, 2, 3]


def test_kmeans_never_takes_a_row_twice():
    features = np.zeros((6, 2), dtype=np.float32)
    features[:3] = 1.0
    with pytest.warns(match="distinct clusters"):
        chosen = choose_by_kmeans(features, 4, 1)
    assert len(set(chosen.tolist())) == 4
