"""Shrinkage H-score: Ibrahim, Ponomareva, Mazumder, 2022 (arXiv 2110.06893)."""

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig


@PROXIES.add
class HScore(Proxy):
    """``tr(cov_shrunk(f)^-1 (1 - a) cov(E[f | y]))`` with the Ledoit-Wolf shrinkage ``a``."""

    class Config(ProxyConfig):
        """Registered as ``h_score``."""

        type: str = "h_score"

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """H-score of features ``[n, D]``."""
        from sklearn.covariance import ledoit_wolf

        centered = inputs - inputs.mean(axis=0)
        covariance, shrinkage = ledoit_wolf(centered, assume_centered=True)
        means = np.zeros_like(centered)
        for label in np.unique(labels):
            means[labels == label] = centered[labels == label].mean(axis=0)
        between = means.T @ means / len(labels)
        solved = np.linalg.pinv(covariance, hermitian=True) @ between
        return float((1.0 - shrinkage) * np.trace(solved))
