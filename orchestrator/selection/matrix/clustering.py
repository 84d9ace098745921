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
MANY_MODELS, MANY_REPRESENTATIVES = 30, 5
"""An automatic cut of so many models gives at least so many representatives."""
MAX_CUTS = 32
"""Cuts whose silhouettes are compared; each takes a pass over all pairs."""
MAX_MODELS = 5000
"""Models that are clustered at most: 200 MB for their distances."""
ROWS_AT_ONCE = 32
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
    for first in range(0, count, ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        largest, common = _largest_differences(known[rows], known, min(top, known.shape[1]))
        total = np.where(largest >= 0, largest, 0.0).sum(axis=0)
        used = np.clip(common, 1, top)
        distance[rows] = np.where(common >= max(min_common, 1), total / used, INCOMPARABLE)
    np.fill_diagonal(distance, 0.0)
    return 1.0 - distance


def _largest_differences(
    some: FloatArray, everyone: FloatArray, top: int
) -> tuple[FloatArray, IntArray]:
    """The ``top`` largest differences ``[top, R, M]``, -1 where missing, and the common cells.

    One data set at a time is sorted into the differences so far: a full sort of ``[R, M, N]`` takes
    several times as long and N times the memory.
    """
    largest = np.full((top, len(some), len(everyone)), -1.0)
    common = np.zeros(largest.shape[1:], dtype=np.int64)
    for one, two in zip(some.T, everyone.T, strict=True):
        gap = np.abs(one[:, None] - two[None, :])
        missing = np.isnan(gap)
        common += ~missing
        gap[missing] = -1.0
        for place in largest:
            smaller = np.minimum(place, gap)
            np.maximum(place, gap, out=place)
            gap = smaller
    return largest, common


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
        InputError: No models, more than `MAX_MODELS`, or a model without any score.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    empty = [m for m, row in zip(models, scores, strict=True) if np.isnan(row).all()]
    if not models or empty:
        raise InputError(f"clustering: no scores for {', '.join(empty) or 'any model'}.")
    if len(models) > MAX_MODELS:
        raise InputError(
            f"clustering: {len(models)} models; the distances of more than {MAX_MODELS} fill the "
            "memory. Use recall.mode=default, which needs no clusters."
        )
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

    Only partitions with enough representatives count: `MANY_REPRESENTATIVES` of `MANY_MODELS` or
    more, else 2; with fewer, recall has nothing to compare. A tree without such a partition has no
    automatic cut, and two models have no partition: the paper's text threshold decides.
    """
    from scipy.cluster.hierarchy import fcluster

    models = len(distance)
    needed = MANY_REPRESENTATIVES if models >= MANY_MODELS else 2
    several = _clusters_of_several(tree)
    heights = [h for h, count in several.items() if h < INCOMPARABLE / 2 and count >= needed]
    if models < MANY_MODELS and not heights:
        heights = [h for h in several if h < INCOMPARABLE / 2]
    step = max(1, -(-len(heights) // MAX_CUTS))
    scored = [
        (_silhouette(distance, _relabel(fcluster(tree, height, criterion="distance"))), -height)
        for height in sorted(heights)[::step]
    ]
    return -max(scored)[1] if scored and models > 2 else NLP_THRESHOLD


def _clusters_of_several(tree: FloatArray) -> dict[float, int]:
    """Merge height, the last one left out, to the clusters of several models at that height."""
    leaves, several, found = len(tree) + 1, 0, dict[float, int]()
    for one, two, height, _ in tree[:-1]:
        several += 1 - int(one >= leaves) - int(two >= leaves)
        found[float(height)] = several
    return found


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
