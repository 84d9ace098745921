"""LogME: log maximum evidence of a Bayesian linear model.

You et al., ICML 2021 (arXiv 2102.11005), with the fixed point of You et al., JMLR 2022.
"""

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig, one_hot

MAX_STEPS = 100
TOLERANCE = 1e-6


@PROXIES.add
class LogME(Proxy):
    """Log maximum evidence per row, averaged over one-vs-rest targets."""

    class Config(ProxyConfig):
        """Registered as ``logme``."""

        type: str = "logme"

    reads_numbers = True

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """LogME of features ``[n, D]``."""
        return float(self.scores(inputs, labels[None])[0])

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """LogMEs of several labelings, from one decomposition of the features."""
        return self.number_scores(inputs, one_hot(labelings))

    def number_scores(self, inputs: FloatArray, targets: FloatArray) -> FloatArray:
        """LogMEs of several targets, averaged over their columns."""
        rows, width = inputs.shape
        left, singular, _ = np.linalg.svd(inputs, full_matrices=False)
        columns = np.concatenate(targets.transpose(0, 2, 1))  # [P K, n]
        projected = (columns @ left) ** 2
        rest = np.maximum((columns**2).sum(axis=1) - projected.sum(axis=1), 0.0)
        evidence = _log_evidence(singular**2, projected, rest, rows, width) / rows
        return np.asarray(evidence.reshape(len(targets), -1).mean(axis=1))


def _log_evidence(
    squared: FloatArray, projected: FloatArray, rest: FloatArray, rows: int, width: int
) -> FloatArray:
    """Maximize T evidences over (alpha, beta) by the fixed point, in the basis of the SVD.

    With ``t = alpha / beta``: ``|m|^2 = sum s z / (s + t)^2``,
    ``|Fm - y|^2 = sum z t^2 / (s + t)^2 + rest`` and ``gamma = sum s / (s + t)``.

    Args:
        squared: S ``[r]``, squared singular values of the features.
        projected: Z ``[T, r]``, squared projections of each target on the left singular vectors.
        rest: ``[T]`` squared norm of each target outside their span.
        rows: N.
        width: D.
    """
    alpha, beta = np.ones(len(projected)), np.ones(len(projected))
    moving = np.ones(len(projected), dtype=bool)
    for _ in range(MAX_STEPS):
        ratio = (alpha / beta)[moving]
        gamma, weight, error = _moments(squared, projected[moving], rest[moving], ratio)
        alpha[moving] = gamma / np.maximum(weight, 1e-12)
        beta[moving] = (rows - gamma) / np.maximum(error, 1e-12)
        still = np.abs((alpha / beta)[moving] - ratio) > TOLERANCE * ratio
        moving[moving] = still
        if not still.any():
            break
    _, weight, error = _moments(squared, projected, rest, alpha / beta)
    determinant = np.log(beta[:, None] * squared + alpha[:, None]).sum(axis=1)
    determinant += (width - len(squared)) * np.log(alpha)
    evidence = 0.5 * (
        width * np.log(alpha)
        + rows * np.log(beta)
        - rows * np.log(2 * np.pi)
        - beta * error
        - alpha * weight
        - determinant
    )
    return np.asarray(evidence)


def _moments(
    squared: FloatArray, projected: FloatArray, rest: FloatArray, ratio: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """``gamma``, ``|m|^2`` and ``|Fm - y|^2`` of each target, ``[T]``."""
    sums = squared + ratio[:, None]
    weight = (squared * projected / sums**2).sum(axis=1)
    error = (projected * ratio[:, None] ** 2 / sums**2).sum(axis=1) + rest
    return (squared / sums).sum(axis=1), weight, error
