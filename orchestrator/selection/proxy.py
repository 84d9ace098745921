"""Proxy scores: how well frozen features (or a source head) already fit the target's labels.

A registry of functions on features ``[n, D]`` or source probabilities ``[n, Z]`` and labels ``[n]``
with values in 0..K-1, all larger-is-better, all in fp64. Sources:

- LEEP: Nguyen et al., ICML 2020 (arXiv 2002.12462). Needs a real source head: a random head scores
  its floor ``-H(Y)``.
- NLEEP: Li et al., CVPR 2021 (arXiv 2011.05977), a Gaussian mixture on PCA features in place of the
  source head.
- LogME: You et al., ICML 2021 (arXiv 2102.11005), with the fixed point of You et al., JMLR 2022.
- shrinkage H-score: Ibrahim, Ponomareva, Mazumder, 2022 (arXiv 2110.06893).
- kNN: leave-one-out accuracy of the k nearest neighbours by cosine (TransformerRanker's).

Every score comes with a floor: what the same proxy gives when the labels carry no information
(``-H(Y)`` for the two LEEPs, the score under permuted labels for the others).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.errors import InputError

LEEP_MARGIN = 0.01
FLOOR_PERMUTATIONS = 3
LOGME_STEPS = 100
LOGME_TOLERANCE = 1e-6
KNN_NEIGHBOURS = 5
NLEEP_VARIANCE = 0.8
NLEEP_COMPONENTS_PER_CLASS = 5


@dataclass(frozen=True)
class ProxyScore:
    """Scores of one model on the target.

    Attributes:
        values: Proxy name -> score.
        floors: Proxy name -> the score without information.
        rows: Training rows the forward pass read.
    """

    values: Mapping[str, float]
    floors: Mapping[str, float]
    rows: int = 0

    def informative(self, name: str) -> bool:
        """Whether the score lies above its floor."""
        margin = LEEP_MARGIN if name in HEAD_PROXIES else 0.0
        return self.values[name] > self.floors[name] + margin


def leep(probabilities: FloatArray, labels: IntArray) -> float:
    """Log expected empirical prediction, in (-inf, 0].

    ``P(y,z) = mean_i theta_i(z) [y_i = y]``; ``LEEP = mean_i log sum_z P(y_i | z) theta_i(z)``.
    """
    classes = int(labels.max()) + 1
    joint = np.eye(classes)[labels].T @ probabilities / len(labels)
    conditional = joint / np.maximum(joint.sum(axis=0, keepdims=True), np.finfo(float).tiny)
    expected = (probabilities @ conditional.T)[np.arange(len(labels)), labels]
    return float(np.log(np.maximum(expected, np.finfo(float).tiny)).mean())


def nleep(features: FloatArray, labels: IntArray, seed: int = 0) -> float:
    """LEEP on the responsibilities of a Gaussian mixture (5 components a class) on PCA features."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    classes = len(np.unique(labels))
    reduced = PCA(n_components=NLEEP_VARIANCE, random_state=seed).fit_transform(features)
    count = min(NLEEP_COMPONENTS_PER_CLASS * classes, max(1, len(labels) // 2))
    mixture = GaussianMixture(count, covariance_type="diag", random_state=seed, reg_covar=1e-3)
    return leep(mixture.fit(reduced).predict_proba(reduced), labels)


def logme(features: FloatArray, labels: IntArray) -> float:
    """Log maximum evidence per row of a Bayesian linear model, mean over one-vs-rest targets."""
    rows, width = features.shape
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    squared = singular**2
    evidences = []
    for label in np.unique(labels):
        target = (labels == label).astype(float)
        projected = left.T @ target
        rest = max(float(target @ target - projected @ projected), 0.0)
        evidences.append(_log_evidence(squared, projected**2, rest, rows, width) / rows)
    return float(np.mean(evidences))


def h_score(features: FloatArray, labels: IntArray) -> float:
    """Shrinkage H-score ``tr(cov_shrunk(f)^-1 (1 - a) cov(E[f | y]))``, a: Ledoit-Wolf's."""
    from sklearn.covariance import ledoit_wolf

    centred = features - features.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = np.zeros_like(centred)
    for label in np.unique(labels):
        means[labels == label] = centred[labels == label].mean(axis=0)
    between = means.T @ means / len(labels)
    solved = np.linalg.pinv(covariance, hermitian=True) @ between
    return float((1.0 - shrinkage) * np.trace(solved))


def knn(features: FloatArray, labels: IntArray, neighbours: int = KNN_NEIGHBOURS) -> float:
    """Leave-one-out accuracy of a k-nearest-neighbour vote by cosine, ties to the smaller label."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, : min(neighbours, len(labels) - 1)]
    votes = np.eye(int(labels.max()) + 1)[labels[nearest]].sum(axis=1)
    return float((votes.argmax(axis=1) == labels).mean())


FEATURE_PROXIES: dict[str, Callable[[FloatArray, IntArray], float]] = {
    "h_score": h_score,
    "knn": knn,
    "logme": logme,
    "nleep": nleep,
}
HEAD_PROXIES: dict[str, Callable[[FloatArray, IntArray], float]] = {"leep": leep}
PROXIES = (*sorted(FEATURE_PROXIES), *sorted(HEAD_PROXIES))
ENTROPY_FLOOR = frozenset({"leep", "nleep"})


def score_features(
    names: Sequence[str],
    features: FloatArray,
    labels: IntArray,
    probabilities: FloatArray | None = None,
    seed: int = 0,
) -> ProxyScore:
    """Run the named proxies on one model's features.

    Args:
        names: Of `PROXIES`; head proxies are left out where there is no source head.
        features: ``[n, D]`` pooled features of training rows.
        labels: ``[n]`` class numbers.
        probabilities: ``[n, Z]`` of a trained source head, None for a headless encoder.
        seed: For the permutation floors.

    Raises:
        InputError: An unknown proxy, features that are not finite, or only one class.
    """
    unknown = sorted(set(names) - set(PROXIES))
    if unknown:
        raise InputError(f"proxy {unknown[0]!r} is not registered; allowed: {', '.join(PROXIES)}.")
    if not np.isfinite(features).all():
        raise InputError("proxy: the features are not finite; the model is broken.")
    if len(np.unique(labels)) < 2:
        raise InputError("proxy: all training rows have one label; nothing can be ranked.")
    clean, targets = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    values: dict[str, float] = {}
    floors: dict[str, float] = {}
    for name in names:
        if name in FEATURE_PROXIES:
            values[name] = FEATURE_PROXIES[name](clean, targets)
            floors[name] = _floor(name, clean, targets, seed)
        elif probabilities is not None:
            values[name] = HEAD_PROXIES[name](np.asarray(probabilities, np.float64), targets)
            floors[name] = -label_entropy(targets)
    return ProxyScore(values, floors, len(targets))


def label_entropy(labels: IntArray) -> float:
    """H(Y) in nats."""
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _floor(name: str, features: FloatArray, labels: IntArray, seed: int) -> float:
    """The best of a few scores under permuted labels; ``-H(Y)`` for NLEEP."""
    if name in ENTROPY_FLOOR:
        return -label_entropy(labels)
    generator = np.random.default_rng(seed)
    score = FEATURE_PROXIES[name]
    permuted = [generator.permutation(labels) for _ in range(FLOOR_PERMUTATIONS)]
    return max(score(features, labels_) for labels_ in permuted)


def _log_evidence(
    squared: FloatArray, projected: FloatArray, rest: float, rows: int, width: int
) -> float:
    """Maximise the evidence over (alpha, beta) by the fixed point; all in the SVD's basis.

    With ``t = alpha / beta``: ``|m|^2 = sum s z / (s + t)^2``,
    ``|Fm - y|^2 = sum z t^2 / (s + t)^2 + rest`` and ``gamma = sum s / (s + t)``.
    """
    alpha = beta = 1.0
    for _ in range(LOGME_STEPS):
        ratio = alpha / beta
        gamma = float((squared / (squared + ratio)).sum())
        weight = float((squared * projected / (squared + ratio) ** 2).sum())
        error = float((projected * ratio**2 / (squared + ratio) ** 2).sum()) + rest
        alpha = gamma / max(weight, 1e-12)
        beta = (rows - gamma) / max(error, 1e-12)
        if abs(alpha / beta - ratio) <= LOGME_TOLERANCE * ratio:
            break
    ratio = alpha / beta
    weight = float((squared * projected / (squared + ratio) ** 2).sum())
    error = float((projected * ratio**2 / (squared + ratio) ** 2).sum()) + rest
    determinant = float(np.log(beta * squared + alpha).sum())
    determinant += (width - len(squared)) * float(np.log(alpha))
    return 0.5 * (
        width * float(np.log(alpha))
        + rows * float(np.log(beta))
        - rows * float(np.log(2 * np.pi))
        - beta * error
        - alpha * weight
        - determinant
    )
