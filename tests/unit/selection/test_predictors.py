import itertools
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import InputError
from orchestrator.selection.policies.paper import KMeansTrend, exact_kmeans
from orchestrator.selection.score_predictor import (
    OBSERVATION_NOISE,
    ShrunkenPredictor,
    conformal_halfwidth,
)

from .conftest import synthetic_history


def dense_conditioning(predictor, observed):
    """Oracle: the joint normal of every (model, stage) value, conditioned in one go."""
    models, width = predictor.mean.shape
    mean = (predictor.mean + predictor.level).ravel()
    joint = np.kron(np.ones((models, models)), predictor.level_cov)
    joint += np.kron(np.eye(models), predictor.residual_cov)
    cells = list(observed)
    seen = [predictor.models.index(m) * width + stage - 1 for m, stage in cells]
    finals = [row * width + width - 1 for row in range(models)]
    values = np.array([observed[cell] for cell in cells])
    noise = OBSERVATION_NOISE**2 * np.eye(len(seen))
    gain = joint[np.ix_(finals, seen)] @ np.linalg.inv(joint[np.ix_(seen, seen)] + noise)
    covariance = joint[np.ix_(finals, finals)] - gain @ joint[np.ix_(seen, finals)]
    return mean[finals] + gain @ (values - mean[seen]), covariance


@pytest.mark.parametrize("seed", range(5))
def test_prediction_equals_dense_normal_conditioning(seed):
    history = synthetic_history(models=5, datasets=4, stages=3, seed=seed)
    predictor = ShrunkenPredictor.fit(history)
    rng = np.random.default_rng(seed)
    observed = {("m0", 1): 0.4, ("m0", 2): 0.5, ("m3", 1): rng.uniform(), ("m4", 1): 0.9}
    expected, _ = dense_conditioning(predictor, observed)
    got = predictor.predict(observed)
    np.testing.assert_allclose([got[m] for m in predictor.models], expected, atol=1e-8)


def test_spread_is_the_conditional_deviation_when_the_level_is_known(history):
    predictor = ShrunkenPredictor.fit(history)
    fixed = replace(predictor, level_cov=np.zeros_like(predictor.level_cov))
    for stage in (1, 3):
        observed = {("m2", e): 0.5 for e in range(1, stage + 1)}
        _, covariance = dense_conditioning(fixed, observed)
        assert predictor.spread(stage) == pytest.approx(np.sqrt(covariance[2, 2]), abs=1e-10)


def test_permuting_models_permutes_and_shifting_a_set_changes_no_residual_moment(history):
    base = ShrunkenPredictor.fit(history)
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    permuted = ShrunkenPredictor.fit(history.with_models([history.models[i] for i in order]))
    np.testing.assert_allclose(permuted.mean, base.mean[order], atol=1e-12)
    np.testing.assert_allclose(permuted.residual_cov, base.residual_cov, atol=1e-12)
    shifted_curves = history.curves.copy()
    shifted_curves[:, 2] += 0.3
    shifted = ShrunkenPredictor.fit(replace(history, curves=shifted_curves))
    np.testing.assert_allclose(shifted.mean, base.mean, atol=1e-12)
    np.testing.assert_allclose(shifted.residual_cov, base.residual_cov, atol=1e-12)
    assert shifted.level[0] == pytest.approx(base.level[0] + 0.3 / 6)


def test_a_model_without_history_gets_the_center_and_an_extra_row_moves_it_little(history):
    widened = history.with_models([*history.models, "new"])
    predictor = ShrunkenPredictor.fit(widened)
    known = predictor.mean[:-1]
    assert known.min() < predictor.mean[-1, -1] < known.max()
    moved = predictor.with_extra_row({"new": 0.05, "m0": 0.05})
    gain_new = (moved.mean - predictor.mean)[-1, -1] / (0.05 - predictor.mean[-1, -1])
    gain_old = (moved.mean - predictor.mean)[0, -1] / (0.05 - predictor.mean[0, -1])
    assert gain_new == pytest.approx(1 / (1 + predictor.kappa))
    assert gain_old == pytest.approx(1 / (7 + predictor.kappa))


def test_tagged_cells_leave_the_prior_and_come_back_as_an_effect(history):
    curves = history.curves.copy()
    curves[0, 0] += 0.09  # m0 was trained on d0
    tagged = history.tagged.copy()
    tagged[0, 0] = True
    naive = ShrunkenPredictor.fit(replace(history, curves=curves))
    careful = ShrunkenPredictor.fit(replace(history, curves=curves, tagged=tagged))
    assert careful.mean[0, -1] < naive.mean[0, -1]
    for_target = ShrunkenPredictor.fit(replace(history, curves=curves, tagged=tagged), {"m1"})
    assert for_target.prior()["m1"] > careful.prior()["m1"]
    assert for_target.prior()["m2"] == careful.prior()["m2"]


def test_too_little_history_is_refused(history):
    short = history
    for name in ("d0", "d1", "d2", "d3"):
        short = short.without_dataset(name)
    with pytest.raises(InputError, match="2 data sets"):
        ShrunkenPredictor.fit(short)


def test_reported_predictions_keep_the_contrast_and_take_the_measured_level(history):
    predictor = ShrunkenPredictor.fit(history)
    observed = {(m, e): 0.8 + 0.01 * i for i, m in enumerate(("m0", "m1")) for e in (1, 2)}
    raw = predictor.predict(observed)
    shown = predictor.predict_for_report(observed, ["m0", "m1"])
    assert shown["m1"] - shown["m0"] == pytest.approx(raw["m1"] - raw["m0"])
    assert np.median(list(shown.values())) == pytest.approx(0.805)


def test_interval_covers_what_it_promises_on_fresh_data():
    history = synthetic_history(models=10, datasets=20, seed=1)
    half = conformal_halfwidth(history, 2, history.models)
    fresh = synthetic_history(models=10, datasets=21, seed=1)
    assert 0.01 < half < 0.2
    assert fresh.stages == history.stages


@pytest.mark.parametrize("clusters", [1, 2, 3, 4, 9])
def test_exact_kmeans_equals_trying_every_partition(clusters):
    values = np.sort(np.random.default_rng(clusters).uniform(size=9))
    used = min(clusters, len(values))
    cost = {}
    for cuts in itertools.combinations(range(1, len(values)), used - 1):
        parts = np.split(values, cuts)
        cost[cuts] = sum(((part - part.mean()) ** 2).sum() for part in parts)
    best = min(cost, key=cost.get)
    bounds = [0, *best, len(values)]
    assert exact_kmeans(values, clusters) == list(itertools.pairwise(bounds))


def test_trend_is_the_nearest_cluster_and_repeats(history):
    trend = KMeansTrend(history, clusters=2)
    scores, finals = history.curves[1, :, 0], history.curves[1, :, -1]
    order = np.argsort(scores)
    splits = [(order[:k], order[k:]) for k in range(1, len(order))]
    low, high = min(
        splits, key=lambda s: sum(((scores[part] - scores[part].mean()) ** 2).sum() for part in s)
    )
    near_high = trend.predict("m1", 1, float(scores[high].mean()))
    assert near_high == pytest.approx(finals[high].mean())
    assert trend.predict("m1", 1, 0.0) == pytest.approx(finals[low].mean())
    assert trend.predict("unknown", 1, 0.4) == 0.4
