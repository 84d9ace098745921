"""NLEEP: LEEP with a Gaussian mixture in place of the source head.

Li et al., CVPR 2021 (arXiv 2011.05977): a mixture on PCA features. Deviation: they fit the mixture
and ``P(y | z)``, and score them, on the same rows, which is above ``-H(Y)`` for pure noise. Here
each half of the rows is scored with what the other half fitted; ``P(y | z)`` is smoothed by one row
of the label shares, because a component may lack a label in one half.
"""

import math

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig, one_hot

EXPLAINED_VARIANCE = 0.8
COMPONENTS_PER_CLASS = 5
ROWS_PER_COMPONENT = 4
"""A mixture component needs a few rows of the half that fits it."""
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
        return float(self.scores(inputs, labels[None])[0])

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """NLEEPs of several labelings, from one mixture per half."""
        order = np.random.default_rng(SEED).permutation(len(inputs))
        members = one_hot(labelings)
        classes = members.shape[2]
        total = np.zeros(len(labelings))
        for half in (order[0::2], order[1::2]):
            other = np.setdiff1d(order, half)
            fitted, seen = _responsibilities(inputs[other], inputs[half], classes)
            shares = members.mean(axis=1)[:, None, :]
            joint = fitted.T @ members[:, other] + shares  # [P, Z, K]
            conditional = joint / joint.sum(axis=2, keepdims=True)
            expected = ((seen @ conditional) * members[:, half]).sum(axis=2)
            total += np.log(np.maximum(expected, np.finfo(float).tiny)).sum(axis=1)
        return total / len(inputs)

    def to_unit(self, value: float) -> float:
        """``exp(NLEEP)``, as for LEEP."""
        return math.exp(value)


def _responsibilities(
    fitting: FloatArray, scored: FloatArray, classes: int
) -> tuple[FloatArray, FloatArray]:
    """Responsibilities of both halves under the mixture that the first one fits, ``[rows, Z]``."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    reduce = PCA(n_components=EXPLAINED_VARIANCE, svd_solver="full").fit(fitting)
    count = min(COMPONENTS_PER_CLASS * classes, max(1, len(fitting) // ROWS_PER_COMPONENT))
    mixture = GaussianMixture(count, covariance_type="diag", random_state=SEED, reg_covar=1e-3)
    reduced = reduce.transform(fitting)
    mixture.fit(reduced)
    return mixture.predict_proba(reduced), mixture.predict_proba(reduce.transform(scored))
