"""Distances between the answers of two models to the same rows, for every task kind.

The divergence is that of the distributions that a head stands for, per row, in float64: categories
for classes, tags and candidates, one Bernoulli per label, places of a text for both ends of an
answer. A number is a normal distribution with the spread that the float model's numbers have over
the rows; vectors are compared by 1 - cosine.

Shapes: N rows, S tokens of a row, K outputs, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.quantization.measured_results import Bounded, Closeness
from orchestrator.tasks.intervals import compare
from orchestrator.tasks.metrics import mean, share
from orchestrator.zoo.gate import CONFIDENCE

if TYPE_CHECKING:
    from orchestrator.tasks.base import Answer

DECILE: Final = 0.1
"""Share of texts that may be below the smallest cosine."""
DISCRETE: Final = ("label", "choice", "labels", "tags", "text")
"""Fields of answers that are equal or not; the first that an answer has is compared."""
Logits = Sequence[AnyArray]


def row_divergence(kind: str, before: Logits, after: Logits) -> FloatArray:
    """Return the divergence of each row [N] in nats.

    Args:
        kind: Task kind of the head.
        before: Outputs of the float model for each row: [K], [S, K] or [C, 1].
        after: Those of the other model.
    """
    if kind == "regression":
        return _normal(before, after)
    measure = MEASURES.get(kind, _categories)
    return np.asarray(
        [measure(_double(left), _double(right)) for left, right in zip(before, after, strict=True)]
    )


def row_cosine(before: AnyArray, after: AnyArray) -> FloatArray:
    """Return the cosine of each pair of rows of two arrays [N, D]; 0 where a vector is 0."""
    left, right = _double(before), _double(after)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny))


def row_agreement(before: "Sequence[Answer]", after: "Sequence[Answer]") -> FloatArray | None:
    """Return the share of equal answers of each row [N]; None: the answers are not discrete."""
    name = next((name for name in DISCRETE if hasattr(before[0], name)), None)
    if name is None:
        return None
    pairs = [(getattr(b, name), getattr(a, name)) for b, a in zip(before, after, strict=True)]
    return np.asarray([_equal_share(name, left, right) for left, right in pairs])


def closeness(
    cosine: FloatArray, agreement: FloatArray | None, divergence: FloatArray | None
) -> Closeness:
    """Return the figures of goals without labels, with their bounds.

    Args:
        cosine: Of each embedding [N].
        agreement: Share of equal answers of each row [N].
        divergence: Of each row [N].
    """
    return Closeness(
        texts=len(cosine),
        cosine=lowest_decile(cosine),
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        agreement=None if agreement is None else _agreed(agreement),
        kl=None if divergence is None else _mean_divergence(divergence),
    )


def lowest_decile(values: FloatArray) -> Bounded:
    """Return the value that 90 % of a population reach, with order statistics as bounds.

    The r-th smallest of N values is a lower bound of the decile with 95 % confidence if at least r
    values fall below the decile with that probability (Conover 1999, section 3.2). Fewer than 29
    values have no lower bound; -1 stands for it.
    """
    from scipy.stats import binom

    ordered, count = np.sort(values), len(values)
    low = int(binom.ppf(1 - CONFIDENCE, count, DECILE))
    high = int(binom.ppf(CONFIDENCE, count, DECILE)) + 1
    return Bounded(
        value=float(np.quantile(ordered, DECILE)),
        low=float(ordered[low - 1]) if low else -1.0,
        high=float(ordered[min(high, count) - 1]),
    )


def _agreed(agreement: FloatArray) -> Bounded:
    whole = bool(np.isin(agreement, (0.0, 1.0)).all())
    metric = share("agreement") if whole else mean("agreement")
    ones = np.ones_like(agreement)
    found = compare(metric, np.stack([ones, ones], axis=1), np.stack([agreement, ones], axis=1))
    return Bounded(value=1 - found.drop, low=1 - found.bound, high=1 - found.low)


def _mean_divergence(divergence: FloatArray) -> Bounded:
    ones = np.ones_like(divergence)
    zeros = np.stack([np.zeros_like(divergence), ones], axis=1)
    metric = mean("kl", higher_is_better=False)
    found = compare(metric, zeros, np.stack([divergence, ones], axis=1))
    return Bounded(value=found.drop, low=found.low, high=found.bound)


def _equal_share(name: str, before: object, after: object) -> float:
    if name == "tags" and isinstance(before, tuple) and isinstance(after, tuple):
        if not before:
            return 1.0
        return float(np.mean([x == y for x, y in zip(before, after, strict=False)]))
    return float(before == after)


def _double(values: AnyArray) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _log_softmax(logits: FloatArray, axis: int = -1) -> FloatArray:
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _kl(before: FloatArray, after: FloatArray, axis: int = -1) -> float:
    """Return the divergence of distributions along an axis, averaged over the others."""
    left, right = _log_softmax(before, axis), _log_softmax(after, axis)
    return float((np.exp(left) * (left - right)).sum(axis=axis).mean())


def _categories(before: FloatArray, after: FloatArray) -> float:
    return _kl(before, after)


def _places(before: FloatArray, after: FloatArray) -> float:
    return _kl(before, after, axis=0)


def _candidates(before: FloatArray, after: FloatArray) -> float:
    return _kl(before.reshape(-1), after.reshape(-1))


def _labels(before: FloatArray, after: FloatArray) -> float:
    """Return the sum over labels of the divergence of two Bernoulli distributions."""
    total = 0.0
    for sign in (1.0, -1.0):
        left, right = -np.logaddexp(0, -sign * before), -np.logaddexp(0, -sign * after)
        total += float((np.exp(left) * (left - right)).sum())
    return total


def _vectors(before: FloatArray, after: FloatArray) -> float:
    rows = np.atleast_2d(before), np.atleast_2d(after)
    return float(1 - row_cosine(*rows).mean())


def _normal(before: Logits, after: Logits) -> FloatArray:
    left, right = _double(np.stack(before)), _double(np.stack(after))
    spread = np.maximum(left.var(axis=0), np.finfo(np.float64).tiny)
    rows = ((left - right) ** 2 / (2 * spread)).reshape(len(left), -1)
    return np.asarray(rows.sum(axis=1))


MEASURES: Final[Mapping[str, Callable[[FloatArray, FloatArray], float]]] = {
    "multilabel": _labels,
    "question_answering": _places,
    "multiple_choice": _candidates,
    "similarity": _vectors,
}
"""Divergence of the outputs of one row, of the kinds whose outputs are not classes."""
