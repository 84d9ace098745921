"""Linear probe: leave-one-out accuracy of a ridge classifier on frozen features.

The regression on one-hot labels has a closed leave-one-out form (Allen 1974, PRESS): the residual
of row i without row i is ``(y_i - yhat_i) / (1 - h_ii)``. A logistic probe would have to be trained
once per permutation. Among the penalties, the smallest leave-one-out squared error chooses, anew
for each labeling, so that the choice is part of the permutation test. scikit-learn's
``RidgeClassifierCV`` does this for one labeling at a time.
"""

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

    unit_order = 4

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """Accuracy in [0, 1] of features ``[n, D]``."""
        return float(self.scores(inputs, labels[None])[0])

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """Accuracies of several labelings, from one decomposition of the features."""
        rows = len(inputs)
        left, singular, _ = np.linalg.svd(inputs - inputs.mean(axis=0), full_matrices=False)
        scale = max(float((singular**2).mean()), np.finfo(float).tiny)
        shrinks = [singular**2 / (singular**2 + penalty * scale) for penalty in PENALTIES]
        # 1 / n is the leverage of the intercept.
        leverages = [(left**2) @ shrink + 1.0 / rows for shrink in shrinks]
        found = []
        for labels, members in zip(labelings, one_hot(labelings), strict=True):
            means = members.mean(axis=0)
            projected = left.T @ (members - means)
            trials = []
            for shrink, leverage in zip(shrinks, leverages, strict=True):
                residual = members - means - left @ (shrink[:, None] * projected)
                residual /= np.maximum(1.0 - leverage, 1e-6)[:, None]
                right = (members - residual).argmax(axis=1) == labels
                trials.append((float((residual**2).sum()), float(right.mean())))
            found.append(min(trials, key=lambda trial: trial[0])[1])
        return np.array(found)
