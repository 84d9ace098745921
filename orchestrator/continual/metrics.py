"""Figures of a task stream from its accuracy matrix.

``R[i, j]`` is the test accuracy on task j after learning task i, NaN where it was not measured. T
tasks; indices from 0. Definitions: Lopez-Paz & Ranzato 2017 (ACC, BWT, FWT), Chaudhry et al. 2018
(forgetting, intransigence). Scenario: *task-incremental*, the task is known when its head answers.
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

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


def forward_transfer(matrix: Matrix, untrained: npt.NDArray[np.float64]) -> float | None:
    """``FWT = mean_{j > 0} (R[j-1, j] - untrained[j])``; None where that was not measured.

    Args:
        matrix: With its upper triangle, where tasks share a head.
        untrained: Accuracy of each task before any learning, [T].
    """
    if len(matrix) < 2:
        return None
    gains = [matrix[j - 1, j] - untrained[j] for j in range(1, len(matrix))]
    return _known(np.mean(gains))


def intransigence(matrix: Matrix, joint: npt.NDArray[np.float64]) -> float:
    """``mean_j (joint[j] - R[j, j])``: what a task lost by being learned in a stream.

    Args:
        matrix: The stream's accuracy matrix.
        joint: Accuracy of each task when all are learned at once, [T].
    """
    return float(np.mean(joint - np.diag(matrix)))


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """Summary of a stream; None: not defined for it.

    Attributes:
        average_accuracy: ACC.
        backward_transfer: BWT.
        forgetting: Average forgetting.
        learning_accuracy: Mean accuracy of tasks when just learned, ``mean_j R[j, j]``.
    """

    average_accuracy: float
    backward_transfer: float | None
    forgetting: float | None
    learning_accuracy: float | None

    @classmethod
    def of(cls, matrix: Matrix) -> "StreamFigures":
        """Compute all figures of a T x T matrix."""
        learned = _known(np.diag(matrix).mean())
        return cls(average_accuracy(matrix), backward_transfer(matrix), forgetting(matrix), learned)

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures by name."""
        return asdict(self)


def as_rows(matrix: Matrix) -> list[list[float | None]]:
    """Return the matrix for JSON: None where nothing was measured."""
    return [[_known(value) for value in row] for row in matrix]


def _known(value: np.floating | float) -> float | None:
    return None if np.isnan(value) else float(value)
