"""Shrinkage H-score: Ibrahim, Ponomareva, Mazumder, 2022 (arXiv 2110.06893)."""

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig, one_hot


@PROXIES.add
class HScore(Proxy):
    """``tr(cov_shrunk(f)^-1 (1 - a) cov(E[f | y]))`` with the Ledoit-Wolf shrinkage ``a``."""

    class Config(ProxyConfig):
        """Registered as ``h_score``."""

        type: str = "h_score"

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """H-score of features ``[n, D]``."""
        return float(self.scores(inputs, labels[None])[0])

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """H-scores of several labelings, from one inverse.

        The trace is ``sum_k n_k mean_k^T cov^-1 mean_k / n`` over the classes.
        """
        from sklearn.covariance import ledoit_wolf

        centered = inputs - inputs.mean(axis=0)
        covariance, shrinkage = ledoit_wolf(centered, assume_centered=True)
        inverse = np.linalg.pinv(covariance, hermitian=True)
        found = []
        for members in one_hot(labelings):
            counts = np.maximum(members.sum(axis=0), 1.0)
            sums = members.T @ centered
            found.append(((sums @ inverse) * sums).sum(axis=1) @ (1.0 / counts) / len(inputs))
        return np.asarray((1.0 - shrinkage) * np.array(found))
