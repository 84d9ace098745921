"""Linear probe: leave-one-out accuracy (of numbers: R squared) of ridge regression on features.

The regression on one-hot labels has a closed leave-one-out form (Allen 1974, PRESS): the residual
of row i without row i is ``(y_i - yhat_i) / (1 - h_ii)``. A logistic probe would have to be trained
once per permutation. Among the penalties, the smallest leave-one-out squared error chooses, anew
for each labeling, so that the choice is part of the permutation test. scikit-learn's
``RidgeClassifierCV`` does this for one labeling at a time.
"""

from collections.abc import Iterator

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig, one_hot

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties, relative to the mean eigenvalue of the features' scatter matrix."""


@PROXIES.add
class LinearProbe(Proxy):
    """Leave-one-out accuracy of ridge regression on centered one-hot labels."""

    class Config(ProxyConfig):
        """Registered as ``linear_probe``."""

        type: str = "linear_probe"

    reads_numbers = True
    unit_order = 4

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """Accuracy in [0, 1] of features ``[n, D]``."""
        return float(self.scores(inputs, labels[None])[0])

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """Accuracies of several labelings, from one decomposition of the features."""
        members = one_hot(labelings)
        residuals = self._residuals(inputs, members)
        each = zip(labelings, members, residuals, strict=True)
        return np.array(
            [((member - rest).argmax(axis=1) == labels).mean() for labels, member, rest in each]
        )

    def number_scores(self, inputs: FloatArray, targets: FloatArray) -> FloatArray:
        """Leave-one-out R squared of several targets, averaged over their columns."""
        residuals = self._residuals(inputs, targets)
        lost = np.array([(residual**2).sum() for residual in residuals])
        return np.asarray(1.0 - lost / np.maximum((targets**2).sum(axis=(1, 2)), 1e-12))

    def _residuals(self, inputs: FloatArray, targets: FloatArray) -> Iterator[FloatArray]:
        """Yield the leave-one-out residuals ``[n, K]`` of each of the targets ``[P, n, K]``."""
        rows = len(inputs)
        left, singular, _ = np.linalg.svd(inputs - inputs.mean(axis=0), full_matrices=False)
        scale = max(float((singular**2).mean()), np.finfo(float).tiny)
        shrinks = [singular**2 / (singular**2 + penalty * scale) for penalty in PENALTIES]
        # 1 / n is the leverage of the intercept.
        leverages = [(left**2) @ shrink + 1.0 / rows for shrink in shrinks]
        for members in targets:
            means = members.mean(axis=0)
            projected = left.T @ (members - means)
            trials = []
            for shrink, leverage in zip(shrinks, leverages, strict=True):
                residual = members - means - left @ (shrink[:, None] * projected)
                residual /= np.maximum(1.0 - leverage, 1e-6)[:, None]
                trials.append(residual)
            yield min(trials, key=lambda residual: float((residual**2).sum()))
