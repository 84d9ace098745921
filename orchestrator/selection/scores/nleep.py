"""NLEEP: LEEP with a Gaussian mixture in place of the source head.

Li et al., CVPR 2021 (arXiv 2011.05977): a mixture on PCA features.
"""

import math

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig, label_entropy
from orchestrator.selection.scores.leep import leep

EXPLAINED_VARIANCE = 0.8
COMPONENTS_PER_CLASS = 5
SEED = 0


@PROXIES.add
class Nleep(Proxy):
    """LEEP on the responsibilities of a Gaussian mixture (5 components per class)."""

    class Config(ProxyConfig):
        """Registered as ``nleep``."""

        type: str = "nleep"

    unit_order = 2

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """NLEEP of features ``[n, D]``."""
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture

        classes = len(np.unique(labels))
        reduced = PCA(n_components=EXPLAINED_VARIANCE, random_state=SEED).fit_transform(inputs)
        count = min(COMPONENTS_PER_CLASS * classes, max(1, len(labels) // 2))
        mixture = GaussianMixture(count, covariance_type="diag", random_state=SEED, reg_covar=1e-3)
        return leep(mixture.fit(reduced).predict_proba(reduced), labels)

    def floor(self, inputs: FloatArray, labels: IntArray, seed: int) -> float:
        """``-H(Y)``: responsibilities that are independent of the labels."""
        return -label_entropy(labels)

    def to_unit(self, value: float) -> float:
        """``exp(NLEEP)``, as for LEEP."""
        return math.exp(value)
