"""LogME: log maximum evidence of a Bayesian linear model.

You et al., ICML 2021 (arXiv 2102.11005), with the fixed point of You et al., JMLR 2022.
"""

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import PROXIES, Proxy, ProxyConfig

MAX_STEPS = 100
TOLERANCE = 1e-6


@PROXIES.add
class LogME(Proxy):
    """Log maximum evidence per row, averaged over one-vs-rest targets."""

    class Config(ProxyConfig):
        """Registered as ``logme``."""

        type: str = "logme"

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """LogME of features ``[n, D]``."""
        rows, width = inputs.shape
        left, singular, _ = np.linalg.svd(inputs, full_matrices=False)
        squared = singular**2
        evidences = []
        for label in np.unique(labels):
            target = (labels == label).astype(float)
            projected = left.T @ target
            rest = max(float(target @ target - projected @ projected), 0.0)
            evidences.append(_log_evidence(squared, projected**2, rest, rows, width) / rows)
        return float(np.mean(evidences))


def _log_evidence(
    squared: FloatArray, projected: FloatArray, rest: float, rows: int, width: int
) -> float:
    """Maximize the evidence over (alpha, beta) by the fixed point, in the basis of the SVD.

    With ``t = alpha / beta``: ``|m|^2 = sum s z / (s + t)^2``,
    ``|Fm - y|^2 = sum z t^2 / (s + t)^2 + rest`` and ``gamma = sum s / (s + t)``.

    Args:
        squared: S, squared singular values of the features.
        projected: Z, squared projections of the target on the left singular vectors.
        rest: Squared norm of the target outside their span.
        rows: N.
        width: D.
    """
    alpha = beta = 1.0
    for _ in range(MAX_STEPS):
        ratio = alpha / beta
        gamma = float((squared / (squared + ratio)).sum())
        weight = float((squared * projected / (squared + ratio) ** 2).sum())
        error = float((projected * ratio**2 / (squared + ratio) ** 2).sum()) + rest
        alpha = gamma / max(weight, 1e-12)
        beta = (rows - gamma) / max(error, 1e-12)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    ratio = alpha / beta
    weight = float((squared * projected / (squared + ratio) ** 2).sum())
    error = float((projected * ratio**2 / (squared + ratio) ** 2).sum()) + rest
    determinant = float(np.log(beta * squared + alpha).sum())
    determinant += (width - len(squared)) * float(np.log(alpha))
    return 0.5 * (
        width * float(np.log(alpha))
        + rows * float(np.log(beta))
        - rows * float(np.log(2 * np.pi))
        - beta * error
        - alpha * weight
        - determinant
    )
