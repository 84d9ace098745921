"""Figures of a stream that need another run: for comparisons in tests and benchmarks.

``matrix`` is the accuracy matrix ``R[i, j]`` of ``orchestrator.continual.metrics``. Sources: FWT by
Lopez-Paz & Ranzato 2017, intransigence by Chaudhry et al. 2018.
"""

import numpy as np


def forward_transfer(matrix, untrained):
    """``FWT = mean_{j > 0} (R[j-1, j] - untrained[j])``; None where that was not measured.

    ``untrained`` [T]: accuracy of each task before any learning.
    """
    if len(matrix) < 2:
        return None
    gain = np.mean([matrix[j - 1, j] - untrained[j] for j in range(1, len(matrix))])
    return None if np.isnan(gain) else float(gain)


def intransigence(matrix, joint):
    """``mean_j (joint[j] - R[j, j])``: accuracy a task lost by being learned in a stream.

    ``joint`` [T]: accuracy of each task when all are learned at once.
    """
    return float(np.mean(joint - np.diag(matrix)))
