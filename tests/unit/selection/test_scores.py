import numpy as np
import pytest
from scipy.optimize import minimize

from orchestrator.errors import InputError
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.base import PROXIES, score_features, unit_proxies
from orchestrator.selection.scores.leep import leep
from orchestrator.selection.scores.linear_probe import PENALTIES
from orchestrator.selection.scores.permutations import is_informative, permuted, says_something


def score(name, features, labels):
    return PROXIES.component_class(name)().score(features, labels)


def label_entropy(labels):
    shares = np.bincount(labels) / len(labels)
    return -(shares * np.log(shares)).sum()


def blobs(rows=120, width=10, classes=3, distance=3.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    centers = rng.normal(size=(classes, width)) * distance / np.sqrt(width)
    return centers[labels] + rng.normal(size=(rows, width)), labels


def test_leep_equals_its_definition_written_as_loops():
    rng = np.random.default_rng(1)
    theta = rng.dirichlet(np.ones(4), size=30)
    labels = rng.integers(0, 3, 30)
    joint = np.zeros((3, 4))
    for i in range(30):
        joint[labels[i]] += theta[i] / 30
    marginal = joint.sum(axis=0)
    expected = np.mean(
        [
            np.log(sum(joint[labels[i], z] / marginal[z] * theta[i, z] for z in range(4)))
            for i in range(30)
        ]
    )
    assert leep(theta, labels) == pytest.approx(expected, abs=1e-12)


def test_leep_of_an_uninformative_head_is_minus_the_entropy():
    labels = np.array([0, 0, 0, 1, 1, 2])
    constant = np.full((6, 5), 0.2)
    assert leep(constant, labels) == pytest.approx(-label_entropy(labels), abs=1e-12)
    assert leep(np.eye(3)[labels], labels) == pytest.approx(0.0, abs=1e-12)


def test_logme_equals_the_evidence_maximized_by_a_general_optimizer():
    features, labels = blobs(rows=60, width=6)
    rows = len(features)
    evidences = []
    for label in range(3):
        target = (labels == label).astype(float)

        def negative(logs, target=target):
            alpha, beta = np.exp(logs)
            covariance = np.eye(rows) / beta + features @ features.T / alpha
            _, logdet = np.linalg.slogdet(covariance)
            fit = target @ np.linalg.solve(covariance, target)
            return 0.5 * (fit + logdet + rows * np.log(2 * np.pi))

        best = min(
            (
                minimize(
                    negative,
                    start,
                    method="Nelder-Mead",
                    options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000},
                )
                for start in ([0.0, 0.0], [3.0, 1.0])
            ),
            key=lambda found: found.fun,
        )
        evidences.append(-best.fun / rows)
    assert score("logme", features, labels) == pytest.approx(np.mean(evidences), abs=1e-6)


def test_logme_with_more_dimensions_than_rows():
    features, labels = blobs(rows=30, width=50)
    assert np.isfinite(score("logme", features, labels))


def test_h_score_equals_its_definition():
    features, labels = blobs(rows=200, width=5)
    centered = features - features.mean(axis=0)
    rows, width = centered.shape
    empirical = centered.T @ centered / rows
    # Ledoit & Wolf 2004, written out
    mu = np.trace(empirical) / width
    delta = ((empirical - mu * np.eye(width)) ** 2).sum() / width
    beta = sum(((np.outer(x, x) - empirical) ** 2).sum() for x in centered) / width / rows**2
    shrink = min(beta, delta) / delta
    covariance = (1 - shrink) * empirical + shrink * mu * np.eye(width)
    means = np.stack([centered[labels == c].mean(axis=0) for c in range(3)])
    shares = np.bincount(labels) / rows
    between = sum(s * np.outer(m, m) for s, m in zip(shares, means, strict=True))
    expected = np.trace(np.linalg.inv(covariance) @ ((1 - shrink) * between))
    assert score("h_score", features, labels) == pytest.approx(expected, rel=1e-9)


def test_knn_equals_scikit_learn_with_the_row_itself_left_out():
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    features, labels = blobs(rows=80, distance=2.0)
    model = KNeighborsClassifier(n_neighbors=5, metric="cosine", algorithm="brute")
    expected = cross_val_score(model, features, labels, cv=LeaveOneOut()).mean()
    assert score("knn", features, labels) == pytest.approx(expected)


def test_the_linear_probe_equals_a_ridge_classifier_refitted_without_each_row():
    from sklearn.linear_model import Ridge

    features, labels = blobs(rows=40, width=6, distance=1.5)
    scatter = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
    targets, trials = np.eye(3)[labels], []
    for penalty in PENALTIES:
        predicted = np.stack(
            [
                Ridge(alpha=penalty * scatter.mean())
                .fit(np.delete(features, row, axis=0), np.delete(targets, row, axis=0))
                .predict(features[[row]])[0]
                for row in range(len(labels))
            ]
        )
        right = (predicted.argmax(axis=1) == labels).mean()
        trials.append((((targets - predicted) ** 2).sum(), right))
    assert score("linear_probe", features, labels) == pytest.approx(min(trials)[1])


def test_nleep_is_scored_on_rows_that_did_not_fit_it():
    """In sample, noise scores far above minus the entropy; out of sample below it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 300)
    noise = score("nleep", rng.normal(size=(300, 32)), labels)
    assert noise < -label_entropy(labels) + 0.01


FROM_FEATURES = ["h_score", "knn", "linear_probe", "logme", "nleep"]


@pytest.mark.parametrize("name", FROM_FEATURES)
def test_every_proxy_prefers_separated_classes(name):
    near, labels = blobs(distance=0.5)
    far, _ = blobs(distance=6.0)
    assert score(name, far, labels) > score(name, near, labels)


@pytest.mark.parametrize("name", [*FROM_FEATURES, "leep"])
def test_many_labelings_at_once_score_as_one_by_one(name):
    features, labels = blobs(rows=60, width=8)
    inputs = np.abs(features) / np.abs(features).sum(axis=1, keepdims=True)
    labelings = permuted(labels, 3)[:5]
    proxy = PROXIES.component_class(name)()
    one_by_one = [proxy.score(inputs, each) for each in labelings]
    np.testing.assert_allclose(proxy.scores(inputs, labelings), one_by_one, rtol=1e-9)


def test_the_registry_lists_every_file():
    assert PROXIES.names() == ("h_score", "knn", "leep", "linear_probe", "logme", "nleep")
    assert unit_proxies(PROXIES.names()) == ("leep", "nleep", "knn", "linear_probe")


LONGER = [pytest.param(name, marks=pytest.mark.slow) for name in ("linear_probe", "nleep")]


@pytest.mark.parametrize("name", ["h_score", "knn", "leep", "logme", *LONGER])
def test_pure_noise_is_informative_in_at_most_a_tenth_of_draws(name):
    found = 0
    for draw in range(100):
        rng = np.random.default_rng(draw)
        labels, noise = rng.integers(0, 2, 40), rng.normal(size=(40, 4))
        head = rng.dirichlet(np.ones(4), 40)
        found += is_informative(score_features([name], noise, labels, head, seed=draw), name)
    assert found <= 10


@pytest.mark.parametrize("name", PROXIES.names())
def test_a_planted_signal_is_found(name):
    found = 0
    for draw in range(10):
        features, labels = blobs(rows=150, width=8, distance=2.5, seed=draw)
        head = np.exp(np.eye(3)[labels] + np.random.default_rng(draw).normal(size=(150, 3)))
        head /= head.sum(axis=1, keepdims=True)
        found += is_informative(score_features([name], features, labels, head, seed=draw), name)
    assert found >= 9


def several(name, models, draw, signal=0.0):
    """Scores of some models on one target; the first one's features may carry a signal."""
    rng = np.random.default_rng(draw)
    labels = rng.integers(0, 3, 60)
    scores = {}
    for model in range(models):
        features = rng.normal(size=(60, 4 + model))
        if model == 0:
            features[:, :3] += signal * np.eye(3)[labels]
        scores[f"m{model}"] = score_features([name], features, labels, seed=draw)
    return scores


def test_the_best_of_many_models_is_tested_as_the_best_of_many():
    draws = [several("knn", 10, draw) for draw in range(20)]
    alone = sum(any(is_informative(score, "knn") for score in one.values()) for one in draws)
    assert alone >= 5  # each by itself: up to 1 - .95 ** 10 = 40 % of targets
    assert sum(says_something(one, "knn") for one in draws) <= 2
    assert says_something(several("knn", 10, 0, signal=3.0), "knn")


def test_a_head_is_read_only_where_there_is_one():
    features, labels = blobs(distance=4.0)
    assert "leep" not in score_features(["leep", "knn"], features, labels).values
    assert set(score_features(["leep"], features, labels, np.eye(3)[labels]).values) == {"leep"}


def test_bad_input_is_refused():
    features, labels = blobs()
    with pytest.raises(InputError, match="Did you mean 'logme'"):
        score_features(["logm"], features, labels)
    with pytest.raises(InputError, match="one label"):
        score_features(["knn"], features, np.zeros_like(labels))
    with pytest.raises(InputError, match="not finite"):
        score_features(["knn"], features * np.nan, labels)
    for dead in (np.zeros_like(features), np.ones_like(features) * 3.7):
        with pytest.raises(InputError, match="equal for every row"):
            score_features(PROXIES.names(), dead, labels)


@pytest.mark.parametrize("name", PROXIES.names())
def test_partly_dead_features_and_missing_classes_score(name):
    features, labels = blobs()
    features[:, 3:] = 0.0
    labels = np.where(labels == 1, 5, labels)  # of six classes, the sample has three
    head = np.eye(6)[labels] * 0.5 + 0.5 / 6
    assert np.isfinite(score_features([name], features, labels, head).values[name])


def test_scores_of_earlier_releases_have_a_floor_only():
    assert is_informative(ProxyScore(values={"knn": 0.6}, floors={"knn": 0.5}), "knn")
    assert not is_informative(ProxyScore(values={"knn": 0.5}, floors={"knn": 0.5}), "knn")
