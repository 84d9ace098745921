"""Logits to probabilities, in NumPy and float64: softmax and sigmoid."""

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray, IntArray


def softmax(logits: AnyArray) -> FloatArray:
    """Return probabilities over the last axis, float64; stable for any finite logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sigmoid(logits: AnyArray) -> FloatArray:
    """Return the logistic function, float64, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))


def most_probable_path(logits: AnyArray, blank: int) -> IntArray:
    """Return the most probable CTC path without repetitions and blanks (Graves et al. 2006).

    Args:
        logits: [S, V] of one recording, real frames only.
        blank: Id of the blank.
    """
    path = np.asarray(logits).argmax(axis=-1)
    changes = np.append([True], path[1:] != path[:-1])[: len(path)]
    return np.asarray(path[changes & (path != blank)], dtype=np.int64)
