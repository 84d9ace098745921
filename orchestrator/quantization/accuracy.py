"""Run encoded texts through a session, and compare two models on the same texts.

Legend: N texts, B batch, S length, D width, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from orchestrator.arrays import Float32Array
from orchestrator.errors import StageError
from orchestrator.quantization.backends.onnx_session import EMBEDDING

NORMAL_QUANTILE: Final = 1.959964
Labels = npt.NDArray[np.int64]


class Predictor(Protocol):
    """Anything that answers a batch as ``OnnxModel`` does."""

    def predict(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, Float32Array]:
        """Return logits [B, K] by target name, and ``embedding`` [B, D]."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as token ids, cut into batches of similar length; ``order[i]`` is the text of row i."""

    batches: tuple[dict[str, npt.NDArray[np.int32]], ...]
    order: npt.NDArray[np.int64]
    labels: Labels
    """Class of each text [N], in the order of the texts."""

    def __len__(self) -> int:
        return len(self.order)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Answers for N texts, in their order: logits [N, K] by target, embedding [N, D]."""

    logits: dict[str, Float32Array]
    embedding: Float32Array


def predict_all(model: Predictor, texts: Encoded) -> Outputs:
    """Answer every text.

    Raises:
        StageError: if an answer is not finite.
    """
    rows = [model.predict(batch) for batch in texts.batches]
    back = np.argsort(texts.order)
    joined = {name: np.concatenate([row[name] for row in rows])[back] for name in rows[0]}
    broken = [name for name, values in joined.items() if not np.isfinite(values).all()]
    if broken:
        raise StageError(f"outputs {broken} are not finite: the source package is not usable")
    embedding = joined.pop(EMBEDDING)
    return Outputs(joined, embedding)


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far answers moved from the float model's, averaged over texts."""

    kl: float
    """Kullback-Leibler divergence of the class probabilities in nats, averaged over targets too."""
    cosine: float
    """1 - cosine of the embeddings."""


def divergence(reference: Outputs, other: Outputs) -> Divergence:
    """Compare answers to the same texts, in float64."""
    kl = [
        float(_kl(reference.logits[name], other.logits[name]).mean()) for name in reference.logits
    ]
    left, right = reference.embedding.astype(np.float64), other.embedding.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine = 1 - (left * right).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return Divergence(kl=float(np.mean(kl)), cosine=float(cosine.mean()))


@dataclass(frozen=True, slots=True)
class Paired:
    """Accuracy of a candidate against a reference on the same texts."""

    texts: int
    reference: float
    """Accuracy of the reference."""
    accuracy: float
    """Accuracy of the candidate."""
    drop: float
    """``reference - accuracy``: positive when the candidate is worse."""
    gained: int
    """Texts only the candidate answers rightly."""
    lost: int
    """Texts only the reference answers rightly."""
    p_value: float
    """Exact McNemar test, two-sided: chance of so uneven a split if both were equally good."""
    interval: tuple[float, float]
    """95 % confidence interval of the drop (Agresti and Min 2005, paired proportions)."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {**asdict(self), "interval": list(self.interval)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Paired":
        """Read what ``to_json`` wrote."""
        low, high = content["interval"]
        return cls(**{**content, "interval": (low, high)})


def paired(reference: Float32Array, candidate: Float32Array, labels: Labels) -> Paired:
    """Compare two models by their logits [N, K] on texts with the given labels [N]."""
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


def encode(
    rows: Sequence[Mapping[str, npt.NDArray[Any]]], order: Labels, labels: Labels
) -> Encoded:
    """Pack batches of token ids with the position of each row among the texts."""
    batches = tuple(
        {name: np.asarray(values, dtype=np.int32) for name, values in batch.items()}
        for batch in rows
    )
    return Encoded(batches, np.asarray(order, np.int64), np.asarray(labels, np.int64))


def _agresti_min(gained: int, lost: int, texts: int) -> tuple[float, float]:
    """Wald interval after half a text was added to each of the four cells of the paired table."""
    total = texts + 2
    drop = (lost - gained) / total
    variance = (lost + gained + 1) - (lost - gained) ** 2 / total
    half = NORMAL_QUANTILE * np.sqrt(variance) / total
    return float(drop - half), float(drop + half)


def _kl(reference: Float32Array, other: Float32Array) -> npt.NDArray[np.float64]:
    left, right = _log_softmax(reference), _log_softmax(other)
    return np.asarray((np.exp(left) * (left - right)).sum(axis=1), dtype=np.float64)


def _log_softmax(logits: Float32Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
