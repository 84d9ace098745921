"""Clusters of models with similar benchmark scores, and their representatives.

Sections 3.1-3.2 of arXiv 2404.00069:

- Eq. 1, `similarity_matrix`: ``sim(a, b) = 1 - mean of the k largest |a_i - b_i|``.
- `cluster_models`: average linkage on ``1 - sim``.
- `Clustering.representatives`: the member of a cluster with the highest mean score.

Deviations: a missing cell is NaN (the published code treats scores <= 0 as missing, see
``positive_only``), and by default the threshold is chosen by the silhouette.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.errors import InputError

TOP_DIFFERENCES = 5
"""k of Eq. 1, the paper's choice."""
NLP_THRESHOLD = 0.09
"""Threshold of the published code for text models."""
INCOMPARABLE = 1e7
"""Distance of two models with too few data sets in common: they never merge."""


@dataclass(frozen=True)
class Clustering:
    """A cut of the dendrogram.

    Attributes:
        models: M model ids.
        labels: ``[M]`` cluster index of each model, 0-based in order of first appearance.
        linkage: ``[M-1, 4]`` scipy linkage matrix (for the dendrogram).
        similarity: ``[M, M]`` Eq. 1.
        threshold: The distance at which the tree was cut.
        means: ``[M]`` mean score of each model over its measured cells.
    """

    models: tuple[str, ...]
    labels: IntArray
    linkage: FloatArray
    similarity: FloatArray
    threshold: float
    means: FloatArray

    def clusters(self) -> list[tuple[str, ...]]:
        """Members of each cluster."""
        count = int(self.labels.max()) + 1 if len(self.labels) else 0
        members: list[list[str]] = [[] for _ in range(count)]
        for model, label in zip(self.models, self.labels, strict=True):
            members[int(label)].append(model)
        return [tuple(group) for group in members]

    def representatives(self) -> dict[str, str]:
        """Map each model of a non-singleton cluster to its member with the highest mean score."""
        mean = dict(zip(self.models, self.means, strict=True))
        chosen: dict[str, str] = {}
        for group in self.clusters():
            if len(group) > 1:
                best = max(group, key=lambda model: (mean[model], model))
                chosen |= dict.fromkeys(group, best)
        return chosen

    def silhouette(self) -> float:
        """Mean silhouette (Rousseeuw 1987); 0 for singletons and for a single cluster."""
        return _silhouette(1.0 - self.similarity, self.labels)


def similarity_matrix(
    scores: FloatArray,
    top: int = TOP_DIFFERENCES,
    *,
    positive_only: bool = False,
    min_common: int = 1,
) -> FloatArray:
    """Eq. 1 for every pair of models.

    Args:
        scores: ``[M, N]`` final scores, NaN where missing.
        top: K, the number of largest differences that are averaged (all if there are fewer).
        positive_only: Count scores <= 0 as missing, as the published code does.
        min_common: Pairs with fewer common cells are not comparable (6 in the published code).

    Returns:
        ``[M, M]``; 1 on the diagonal, ``1 - INCOMPARABLE`` for pairs that are not comparable.
    """
    known = np.where(scores > 0, scores, np.nan) if positive_only else scores
    count = len(known)
    distance = np.full((count, count), INCOMPARABLE)
    for row in range(count):
        gap = np.abs(known - known[row])
        common = (~np.isnan(gap)).sum(axis=1)
        largest = -np.sort(-np.nan_to_num(gap, nan=-1.0), axis=1)[:, :top]
        used = np.minimum(common, top)
        total = np.where(largest >= 0, largest, 0.0).sum(axis=1)
        enough = common >= max(min_common, 1)
        distance[row] = np.where(enough, total / np.maximum(used, 1), INCOMPARABLE)
    np.fill_diagonal(distance, 0.0)
    return 1.0 - distance


def cluster_models(
    models: Sequence[str],
    scores: FloatArray,
    threshold: float | None = None,
    similarity: FloatArray | None = None,
) -> Clustering:
    """Cluster models by their benchmark scores.

    Args:
        models: M ids.
        scores: ``[M, N]`` final scores, larger is better, NaN where missing.
        threshold: Merge while the average distance is at most this; None chooses the cut with
            the best silhouette.
        similarity: ``[M, M]``, default `similarity_matrix` of ``scores``.

    Raises:
        InputError: No models, or a model without any score.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    empty = [m for m, row in zip(models, scores, strict=True) if np.isnan(row).all()]
    if not models or empty:
        raise InputError(f"clustering: no scores for {', '.join(empty) or 'any model'}.")
    similar = similarity_matrix(scores) if similarity is None else similarity
    means = np.nanmean(scores, axis=1)
    if len(models) == 1:
        alone = np.zeros(1, dtype=np.int64)
        return Clustering(tuple(models), alone, np.zeros((0, 4)), similar, 0.0, means)
    distance = 1.0 - similar
    tree = linkage(squareform(distance, checks=False), method="average")
    cut = _best_cut(tree, distance) if threshold is None else threshold
    labels = _relabel(fcluster(tree, cut, criterion="distance"))
    return Clustering(tuple(models), labels, tree, similar, float(cut), means)


def _best_cut(tree: FloatArray, distance: FloatArray) -> float:
    """The merge height whose partition (2..M-1 clusters) has the best silhouette.

    Partitions with at least two non-singleton clusters are preferred: with fewer representatives
    recall has nothing to compare. Two models have no such partition: the paper's text threshold
    decides.
    """
    from scipy.cluster.hierarchy import fcluster

    if len(distance) == 2:
        return NLP_THRESHOLD
    scored = []
    for height in sorted({float(h) for h in tree[:-1, 2] if h < INCOMPARABLE / 2}):
        labels = _relabel(fcluster(tree, height, criterion="distance"))
        several = int((np.bincount(labels) > 1).sum())
        scored.append((several >= 2, _silhouette(distance, labels), -height))
    return -max(scored)[2] if scored else NLP_THRESHOLD


def _silhouette(distance: FloatArray, labels: IntArray) -> float:
    from sklearn.metrics import silhouette_score

    groups = len(set(labels.tolist()))
    if not 1 < groups < len(labels):
        return 0.0
    clean = distance.copy()
    np.fill_diagonal(clean, 0.0)
    return float(silhouette_score(clean, labels, metric="precomputed"))


def _relabel(labels: IntArray) -> IntArray:
    order: dict[int, int] = {}
    for label in labels.tolist():
        order.setdefault(label, len(order))
    return np.array([order[label] for label in labels.tolist()], dtype=np.int64)
