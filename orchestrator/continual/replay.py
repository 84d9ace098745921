"""Rehearsal: which rows of a task are kept, and the rule that only training rows ever are."""

from collections.abc import Callable

import numpy as np

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.data.rows.rows import Rows


def buffer_size(rows: int, fraction: float, classes: int) -> int:
    """Rows to keep: the fraction, at least one a class, at most all."""
    return min(rows, max(round(rows * fraction), classes))


def choose_random(rows: int, size: int, seed: int) -> IntArray:
    """Choose ``size`` of ``rows`` rows at random, in ascending order."""
    chosen = np.random.default_rng(seed).choice(rows, size, replace=False)
    return np.sort(chosen).astype(np.int64)


def choose_by_kmeans(features: Float32Array, size: int, seed: int) -> IntArray:
    """Choose the row nearest to each of ``size`` k-means centres (the C&F code's choice).

    Args:
        features: One vector a row, [N, D].
        size: Number of centres.
        seed: Seed of the clustering.

    Returns:
        ``size`` different row indices, ascending: a row that is nearest to two centres is kept
        once, and the second centre takes its nearest row that is still free.
    """
    from sklearn.cluster import KMeans

    centres = KMeans(size, n_init=1, random_state=seed % 2**32).fit(features).cluster_centers_
    chosen: list[int] = []
    for centre in centres:
        distance = np.square(features - centre).sum(1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return np.sort(np.array(chosen, dtype=np.int64))


def choose_rows(
    train: Rows,
    fraction: float,
    classes: int,
    seed: int,
    features: Callable[[Rows], Float32Array] | None,
) -> IntArray:
    """Choose the buffer of one task from its training rows.

    Args:
        train: The task's training rows; validation and test rows never reach this function.
        fraction: Share to keep.
        classes: Number of the task's classes.
        seed: Decides the choice.
        features: Rows to vectors [N, D], for k-means; None chooses at random.
    """
    size = buffer_size(len(train), fraction, classes)
    if features is None:
        return choose_random(len(train), size, seed)
    return choose_by_kmeans(features(train), size, seed)
