"""kNN: leave-one-out accuracy (of numbers: R squared) of the nearest neighbors by cosine.

Of classes as in TransformerRanker.
"""

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig, one_hot

NEIGHBORS = 5


@PROXIES.add
class Knn(Proxy):
    """Leave-one-out accuracy of a 5-nearest-neighbor vote; ties go to the smaller label."""

    class Config(ProxyConfig):
        """Registered as ``knn``."""

        type: str = "knn"

    reads_numbers = True
    unit_order = 3

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """Accuracy in [0, 1] of features ``[n, D]``."""
        return float(self.scores(inputs, labels[None])[0])

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """Accuracies of several labelings, from one search of the neighbors."""
        nearest = _nearest(inputs)
        found = []
        for labels, members in zip(labelings, one_hot(labelings), strict=True):
            votes = members[nearest].sum(axis=1)
            found.append((votes.argmax(axis=1) == labels).mean())
        return np.array(found)

    def number_scores(self, inputs: FloatArray, targets: FloatArray) -> FloatArray:
        """Leave-one-out R squared of the neighbors' mean, averaged over the columns."""
        nearest = _nearest(inputs)
        lost = np.array([((each - each[nearest].mean(axis=1)) ** 2).sum() for each in targets])
        return np.asarray(1.0 - lost / np.maximum((targets**2).sum(axis=(1, 2)), 1e-12))


def _nearest(inputs: FloatArray) -> IntArray:
    """Rows of the nearest neighbors of each row by cosine, ``[n, NEIGHBORS]``, the nearest first.

    A few passes for the largest cosine take a tenth of the time of a sort, and less than a
    partition. Of equal cosines the first row is taken.
    """
    unit = inputs / np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    rows = np.arange(len(inputs))
    nearest = np.empty((len(inputs), min(NEIGHBORS, len(inputs) - 1)), dtype=np.int64)
    for place in range(nearest.shape[1]):
        nearest[:, place] = cosine.argmax(axis=1)
        cosine[rows, nearest[:, place]] = -np.inf
    return nearest
