"""kNN: leave-one-out accuracy of the nearest neighbors by cosine (as in TransformerRanker)."""

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

    unit_order = 3

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """Accuracy in [0, 1] of features ``[n, D]``."""
        return float(self.scores(inputs, labels[None])[0])

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """Accuracies of several labelings, from one search of the neighbors."""
        unit = inputs / np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-12)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -np.inf)
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, : min(NEIGHBORS, len(inputs) - 1)]
        found = []
        for labels, members in zip(labelings, one_hot(labelings), strict=True):
            votes = members[nearest].sum(axis=1)
            found.append((votes.argmax(axis=1) == labels).mean())
        return np.array(found)
