"""LEEP: log expected empirical prediction (Nguyen et al., ICML 2020, arXiv 2002.12462).

Needs a trained source head: a constant head scores ``-H(Y)``.
"""

import math

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig


@PROXIES.add
class Leep(Proxy):
    """LEEP of a trained source head, in (-inf, 0]."""

    class Config(ProxyConfig):
        """Registered as ``leep``."""

        type: str = "leep"

    reads_head = True
    unit_order = 1

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """LEEP of probabilities ``[n, Z]``."""
        return leep(inputs, labels)

    def to_unit(self, value: float) -> float:
        """``exp(LEEP)``, as in the published code."""
        return math.exp(value)


def leep(probabilities: FloatArray, labels: IntArray) -> float:
    """Log expected empirical prediction, in (-inf, 0].

    ``P(y,z) = mean_i theta_i(z) [y_i = y]``; ``LEEP = mean_i log sum_z P(y_i | z) theta_i(z)``.
    """
    classes = int(labels.max()) + 1
    joint = np.eye(classes)[labels].T @ probabilities / len(labels)
    conditional = joint / np.maximum(joint.sum(axis=0, keepdims=True), np.finfo(float).tiny)
    expected = (probabilities @ conditional.T)[np.arange(len(labels)), labels]
    return float(np.log(np.maximum(expected, np.finfo(float).tiny)).mean())
