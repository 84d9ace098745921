"""Accuracy and output error: run encoded texts, and compare two models on the same texts.

Legend: N texts, B batch, S length, D width, K classes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import binomtest

from orchestrator.arrays import Float32Array, FloatArray, IntArray
from orchestrator.errors import StageError
from orchestrator.quantization.backends.backend import Predictor
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING
from orchestrator.quantization.measures.texts import Encoded
from orchestrator.quantization.results import Divergence, Paired

NORMAL_QUANTILE: Final = 1.959964
"""97.5 % quantile of the standard normal distribution: a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Answers for N texts, in their order: logits [N, K] by target, embedding [N, D]."""

    logits: dict[str, Float32Array]
    embedding: Float32Array


def predict_all(model: Predictor, texts: Encoded) -> Outputs:
    """Answer every text.

    Raises:
        StageError: If an answer is not finite.
    """
    rows = [model.predict(batch) for batch in texts.batches]
    back = np.argsort(texts.order)
    joined = {name: np.concatenate([row[name] for row in rows])[back] for name in rows[0]}
    broken = [name for name, values in joined.items() if not np.isfinite(values).all()]
    if broken:
        raise StageError(f"outputs {broken} are not finite: the source package is not usable")
    embedding = joined.pop(EMBEDDING)
    return Outputs(joined, embedding)


def divergence(reference: Outputs, other: Outputs) -> Divergence:
    """Compare answers to the same texts, in float64."""
    kl = [
        float(_kl(reference.logits[name], other.logits[name]).mean()) for name in reference.logits
    ]
    left, right = reference.embedding.astype(np.float64), other.embedding.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine = 1 - (left * right).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return Divergence(kl=float(np.mean(kl)), cosine=float(cosine.mean()))


def paired(reference: Float32Array, candidate: Float32Array, labels: IntArray) -> Paired:
    """Compare two models by their logits [N, K] on texts with the given labels [N].

    The test is the exact one of McNemar (a binomial test of the changed answers); the interval is
    that of Agresti and Min (2005) for paired proportions.
    """
    right_before = reference.argmax(axis=1) == labels
    right_after = candidate.argmax(axis=1) == labels
    gained = int((right_after & ~right_before).sum())
    lost = int((right_before & ~right_after).sum())
    changed = gained + lost
    p_value = float(binomtest(lost, changed, 0.5).pvalue) if changed else 1.0
    return Paired(
        texts=len(labels),
        reference=float(right_before.mean()),
        accuracy=float(right_after.mean()),
        drop=(lost - gained) / len(labels),
        gained=gained,
        lost=lost,
        p_value=p_value,
        interval=_agresti_min(gained, lost, len(labels)),
    )


def _agresti_min(gained: int, lost: int, texts: int) -> tuple[float, float]:
    """Return a Wald interval after half a text is added to each of the four paired counts."""
    total = texts + 2
    drop = (lost - gained) / total
    variance = (lost + gained + 1) - (lost - gained) ** 2 / total
    half = NORMAL_QUANTILE * np.sqrt(variance) / total
    return float(drop - half), float(drop + half)


def _kl(reference: Float32Array, other: Float32Array) -> FloatArray:
    left, right = _log_softmax(reference), _log_softmax(other)
    return np.asarray((np.exp(left) * (left - right)).sum(axis=1), dtype=np.float64)


def _log_softmax(logits: Float32Array) -> FloatArray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
