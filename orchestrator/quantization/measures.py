"""Measures of a plan: encoded texts, accuracy and output error, and speed.

Accuracy runs encoded texts and compares two models on the same ones. Legend: N texts, B batch,
S length, D width, K classes.

Speed compares callables on a machine that is busy with other things. Each round calls every
candidate; the order is reversed every other round. A candidate is compared with the reference *of
the same round*, and the median of the ratios is reported. The reference is called several times per
round, evenly between the others, and its median counts: its noise would be in every ratio. Time is
the CPU time of the calling thread (one thread computes everything). On an idle core it equals wall
time, and it does not include the time that other programs had the core. Wall time is reported
beside it. No library interleaves candidates like this: pytest-benchmark and timeit time one after
the other, so that a slow minute of the machine falls on one of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import AnyArray, Float32Array, FloatArray, IntArray
from orchestrator.errors import StageError
from orchestrator.quantization.backends.backend import Predictor
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING
from orchestrator.quantization.results import Divergence, Latency, Paired

NORMAL_QUANTILE: Final = 1.959964
"""97.5 % quantile of the standard normal distribution: a two-sided 95 % interval."""
WARM_UP_CALLS: Final = 2
MIN_SLICE_S: Final = 2e-3
"""Shortest measured interval; the thread clock is too coarse for less."""
REFERENCE_SLICES: Final = 5
"""Calls of the reference per round."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as token ids, cut into batches of similar length; ``order[i]`` is the text of row i."""

    batches: tuple[dict[str, npt.NDArray[np.int32]], ...]
    order: IntArray
    labels: IntArray
    """Class of each text [N], in the order of the texts."""

    def __len__(self) -> int:
        return len(self.order)


def encode(rows: Sequence[Mapping[str, AnyArray]], order: IntArray, labels: IntArray) -> Encoded:
    """Pack batches of token ids with the position of each row among the texts."""
    batches = tuple(
        {name: np.asarray(values, dtype=np.int32) for name, values in batch.items()}
        for batch in rows
    )
    return Encoded(batches, np.asarray(order, np.int64), np.asarray(labels, np.int64))


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
    from scipy.stats import binomtest  # takes longer to import than many models to measure

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


def compare(
    candidates: Mapping[str, Callable[[], object]], reference: str, *, rounds: int, calls: int
) -> dict[str, Latency]:
    """Measure all candidates in interleaved rounds.

    Args:
        candidates: Callables by name; must contain ``reference``.
        reference: The candidate that has ratio 1.
        rounds: Number of rounds; the figures are medians over them.
        calls: Smallest number of calls per slice; slices shorter than 2 ms get more.
    """
    counts = {name: _calls_per_slice(call, calls) for name, call in candidates.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    order = _with_reference([name for name in candidates if name != reference], reference)
    for _ in range(rounds):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
        for name in order:
            found[name].append(_slice(candidates[name], counts[name]))
        for name, times in found.items():
            cpu, wall = np.median(np.asarray(times), axis=0)
            seconds[name].append((float(cpu), float(wall)))
        order.reverse()
    base = np.asarray([cpu for cpu, _ in seconds[reference]])
    return {name: _summary(np.asarray(times), base) for name, times in seconds.items()}


def _with_reference(others: list[str], reference: str) -> list[str]:
    """Put the reference at the beginning, at the end and evenly between the others."""
    parts = np.array_split(np.asarray(others, dtype=object), REFERENCE_SLICES - 1)
    order = [reference]
    for part in parts:
        order += [*part.tolist(), reference]
    return order


def _calls_per_slice(call: Callable[[], object], calls: int) -> int:
    for _ in range(WARM_UP_CALLS):
        call()
    cpu, _ = _slice(call, 1)
    return max(calls, int(np.ceil(MIN_SLICE_S / max(cpu, 1e-6))))


def _slice(call: Callable[[], object], calls: int) -> tuple[float, float]:
    cpu, wall = time.thread_time(), time.perf_counter()
    for _ in range(calls):
        call()
    return (time.thread_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def _summary(times: FloatArray, base: FloatArray) -> Latency:
    ratios = times[:, 0] / base
    return Latency(
        cpu_ms=float(median(times[:, 0])) * 1e3,
        wall_ms=float(median(times[:, 1])) * 1e3,
        ratio=float(median(ratios)),
        spread=(float(ratios.min()), float(ratios.max())),
    )
