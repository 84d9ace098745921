import numpy as np
import pytest
from scipy.optimize import minimize

from orchestrator.errors import InputError
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.base import (
    PROXIES,
    is_informative,
    label_entropy,
    score_features,
    unit_proxies,
)
from orchestrator.selection.scores.leep import leep


def score(name, features, labels):
    return PROXIES.component_class(name)().score(features, labels)


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


@pytest.mark.parametrize("name", ["h_score", "knn", "logme", "nleep"])
def test_every_proxy_prefers_separated_classes(name):
    near, labels = blobs(distance=0.5)
    far, _ = blobs(distance=6.0)
    assert score(name, far, labels) > score(name, near, labels)


def test_the_registry_lists_every_file():
    assert PROXIES.names() == ("h_score", "knn", "leep", "logme", "nleep")
    assert unit_proxies(PROXIES.names()) == ("leep", "nleep", "knn")


def test_floors_separate_information_from_noise():
    features, labels = blobs(distance=4.0)
    noise = np.random.default_rng(3).normal(size=features.shape)
    random_head = np.random.default_rng(4).dirichlet(np.ones(3) * 50, size=len(labels))
    names = ("knn", "h_score", "logme", "leep")
    good = score_features(names, features, labels, np.eye(3)[labels])
    assert all(is_informative(good, name) for name in names)
    headless = score_features(names, noise, labels)
    assert "leep" not in headless.values
    untrained = score_features(("leep",), noise, labels, random_head)
    assert not is_informative(untrained, "leep")


def test_bad_input_is_refused():
    features, labels = blobs()
    with pytest.raises(InputError, match="Did you mean 'logme'"):
        score_features(["logm"], features, labels)
    with pytest.raises(InputError, match="one label"):
        score_features(["knn"], features, np.zeros_like(labels))
    with pytest.raises(InputError, match="not finite"):
        score_features(["knn"], features * np.nan, labels)


def test_informative_reads_the_floor():
    assert is_informative(ProxyScore(values={"knn": 0.6}, floors={"knn": 0.5}), "knn")
    assert not is_informative(ProxyScore(values={"leep": -0.683}, floors={"leep": -0.684}), "leep")
