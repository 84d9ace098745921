"""Logits to probabilities, in NumPy and float64: softmax and sigmoid."""

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray


def softmax(logits: AnyArray) -> FloatArray:
    """Return probabilities over the last axis, float64; stable for any finite logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sigmoid(logits: AnyArray) -> FloatArray:
    """Return the logistic function, float64, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))
