"""Figures of a task stream, computed from its accuracy matrix.

``R[i, j]`` is the test accuracy on task j after learning task i, NaN where it was not measured. T
tasks; indices from 0. Definitions: Lopez-Paz & Ranzato 2017 (ACC, BWT), Chaudhry et al. 2018
(forgetting). Scenario: *task-incremental*, the task is known when its head answers.
"""

import numpy as np
import numpy.typing as npt

from orchestrator.continual.results import MatrixRows, StreamFigures

Matrix = npt.NDArray[np.float64]


def average_accuracy(matrix: Matrix) -> float:
    """``ACC = mean_j R[T-1, j]``."""
    return float(matrix[-1].mean())


def backward_transfer(matrix: Matrix) -> float | None:
    """``BWT = mean_{j < T-1} (R[T-1, j] - R[j, j])``; None for a single task."""
    last = len(matrix) - 1
    if last < 1:
        return None
    return _known(np.mean([matrix[last, j] - matrix[j, j] for j in range(last)]))


def forgetting(matrix: Matrix) -> float | None:
    """``mean_{j < T-1} (max_{j <= l < T-1} R[l, j] - R[T-1, j])``; None for a single task.

    Unlike BWT it compares with the best a task ever was; it may be negative.
    """
    last = len(matrix) - 1
    if last < 1:
        return None
    falls = [matrix[j:last, j].max() - matrix[last, j] for j in range(last)]
    return _known(np.mean(falls))


def learning_accuracy(matrix: Matrix) -> float | None:
    """``mean_j R[j, j]``; None where tasks were not learned one by one (joint)."""
    return _known(np.diag(matrix).mean())


def figures_of(matrix: Matrix) -> StreamFigures:
    """Compute all figures of a [T, T] matrix."""
    return StreamFigures(
        average_accuracy=average_accuracy(matrix),
        backward_transfer=backward_transfer(matrix),
        forgetting=forgetting(matrix),
        learning_accuracy=learning_accuracy(matrix),
    )


def as_rows(matrix: Matrix) -> MatrixRows:
    """Return the matrix for JSON: None where nothing was measured."""
    return tuple(tuple(_known(value) for value in row) for row in matrix)


def _known(value: np.floating | float) -> float | None:
    return None if np.isnan(value) else float(value)
