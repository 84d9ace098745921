"""Measures of a plan: encoded rows, accuracy and output error, and speed.

Accuracy runs encoded rows and compares two models on the same ones. Legend: N rows, B batch,
S length, D width, K outputs.

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
from math import comb
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from orchestrator.arrays import AnyArray, BoolArray, Float32Array, FloatArray, IntArray
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import StageError
from orchestrator.inference.inputs import joined
from orchestrator.quantization.backends.backend import Predictor
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING
from orchestrator.quantization.distances import row_cosine, row_divergence
from orchestrator.quantization.measured_results import Divergence, Paired
from orchestrator.quantization.results import Latency
from orchestrator.tasks.intervals import compare as compare_rows
from orchestrator.tasks.intervals import proportion_bound
from orchestrator.tasks.measure import of_slice, split_name
from orchestrator.tasks.metrics import Metric

if TYPE_CHECKING:
    from orchestrator.data.processors.readings import Reading
    from orchestrator.inference.inputs import Encoded as Item
    from orchestrator.tasks.base import AnyTask

NORMAL_QUANTILE: Final = 1.959964
"""97.5 % quantile of the standard normal distribution: a two-sided 95 % interval."""
WARM_UP_CALLS: Final = 2
MIN_SLICE_S: Final = 4e-3
"""Shortest measured interval; the thread clock is too coarse for less."""
REFERENCE_SLICES: Final = 5
"""Calls of the reference per round."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as batches of similar length; ``order[i]`` is the sequence of row i of the batches.

    Most rows are one sequence. Candidates of a choice are one each, and so are windows of a long
    context and the texts of a pair that are read apart.
    """

    batches: tuple[dict[str, AnyArray], ...]
    order: IntArray
    items: "tuple[Item, ...] | None" = None
    """The sequences of each row, with the places of their tokens; None: rows are images."""

    def __len__(self) -> int:
        return len(self.order) if self.items is None else len(self.items)

    @property
    def lengths(self) -> list[int] | None:
        """Tokens of each sequence; None: rows are images."""
        if self.items is None:
            return None
        return [len(sequence) for item in self.items for sequence in item.sequences]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one split, in parts that are answered one after the other.

    Several parts are random parts of the rows: each beginning is a random sample of all.
    """

    rows: Rows
    """All rows, in the order of the parts."""
    parts: tuple[Encoded, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def seen(self, parts: int) -> Rows:
        """Return the rows of the first parts."""
        return self.rows.take(range(sum(map(len, self.parts[:parts]))))


def encode(
    batches: Sequence[Mapping[str, AnyArray]],
    order: IntArray,
    items: "Sequence[Item] | None" = None,
) -> Encoded:
    """Pack batches with the position of each of their rows among the sequences."""
    packed = tuple({name: _compact(values) for name, values in each.items()} for each in batches)
    return Encoded(packed, np.asarray(order, np.int64), None if items is None else tuple(items))


def _compact(values: AnyArray) -> AnyArray:
    """Return whole numbers as int32, which graphs read; other values as they are."""
    return values.astype(np.int32) if np.issubdtype(values.dtype, np.integer) else values


@dataclass(frozen=True, slots=True)
class Outputs:
    """Answers to N rows, in their order.

    Attributes:
        logits: Outputs of each row by target: [K], [S, K], or those of its sequences.
        embedding: Vector of each sequence [N, D].
        readings: Places of the tokens of each row, of kinds that need them.
    """

    logits: dict[str, Sequence[AnyArray]]
    embedding: Float32Array
    readings: "tuple[Reading | None, ...]" = ()


def predict_all(model: Predictor, texts: Encoded) -> Outputs:
    """Answer every row.

    Raises:
        StageError: If an answer is not finite.
    """
    found: dict[str, list[AnyArray]] = {}
    lengths, start = texts.lengths, 0
    for batch in texts.batches:
        answers = model.predict(batch)
        places = texts.order[start : start + len(next(iter(batch.values())))].tolist()
        start += len(places)
        for name, values in answers.items():
            rows = found.setdefault(name, [np.empty(0)] * len(texts.order))
            for place, row in zip(places, values, strict=True):
                rows[place] = row if lengths is None or row.ndim < 2 else row[: lengths[place]]
    broken = [n for n, rows in found.items() if not all(np.isfinite(row).all() for row in rows)]
    if broken:
        raise StageError(f"outputs {broken} are not finite: the source package is not usable")
    embedding = np.stack(found.pop(EMBEDDING))
    if texts.items is None:
        return Outputs(dict(found), embedding)
    logits = {name: joined(texts.items, rows) for name, rows in found.items()}
    return Outputs(dict(logits), embedding, tuple(item.reading for item in texts.items))


def joint(parts: Sequence[Outputs]) -> Outputs:
    """Return the outputs of several parts as one."""
    return Outputs(
        {name: [row for part in parts for row in part.logits[name]] for name in parts[0].logits},
        np.concatenate([part.embedding for part in parts]),
        tuple(reading for part in parts for reading in part.readings),
    )


def divergence(
    reference: Outputs, other: Outputs, kinds: Mapping[str, str] | None = None
) -> Divergence:
    """Compare answers to the same rows, in float64.

    Args:
        reference: Of the float model.
        other: Of the other model.
        kinds: Task kind of each target that counts; None: all targets are classifiers.
    """
    kinds = dict.fromkeys(reference.logits, "classification") if kinds is None else kinds
    kl = [
        float(row_divergence(kind, reference.logits[name], other.logits[name]).mean())
        for name, kind in kinds.items()
    ]
    cosine = row_cosine(reference.embedding, other.embedding)
    return Divergence(kl=float(np.mean(kl)) if kl else None, cosine=float(1 - cosine.mean()))


def paired_by_name(
    task: "AnyTask", rows: Rows, statistics: Sequence[Mapping[str, FloatArray]], name: str
) -> Paired:
    """Compare two models by a metric of a task, or of a slice of its rows.

    Args:
        task: The task.
        rows: The rows.
        statistics: Those of the reference, and of the candidate, by metric.
        name: ``recall.spam``, or ``recall.spam@german``.
    """
    metric, part = split_name(name, task.metrics())
    assert metric is not None
    before, after = (each[metric.name] for each in statistics)
    if part is None:
        return paired(metric, before, after)
    return paired(metric, of_slice(before, rows, part), of_slice(after, rows, part))


def paired(metric: Metric, before: FloatArray, after: FloatArray) -> Paired:
    """Compare two models by the statistics of a metric on the same rows.

    The test is the exact one of McNemar (a binomial test of the changed rows). The interval is that
    of Agresti and Min (2005) for paired proportions where rows are right or wrong, and the bound
    Tango's; both come from the bootstrap over rows for other metrics.

    Args:
        metric: The metric.
        before: Its statistics per row of the reference [N, S].
        after: Those of the candidate.
    """
    if not len(before):  # of a slice that the first part of the rows does not show
        return Paired(
            metric=metric.name, texts=0, reference=0.0, accuracy=0.0, drop=0.0, gained=0, lost=0,
            p_value=1.0, interval=(-metric.span, metric.span), bound=metric.span,
        )  # fmt: skip
    if metric.right_or_wrong:
        return _paired_shares(metric.name, before[:, 0] > 0, after[:, 0] > 0)
    found = compare_rows(metric, before, after)
    return Paired(
        metric=metric.name,
        texts=found.rows,
        reference=found.parent,
        accuracy=found.child,
        drop=found.drop,
        gained=found.gained,
        lost=found.lost,
        p_value=found.p_value,
        interval=(found.low, found.high),
        bound=found.bound,
    )


def _paired_shares(name: str, before: BoolArray, after: BoolArray) -> Paired:
    """Compare two shares of right rows [N]; needs no bootstrap."""
    from scipy.stats import binomtest  # takes longer to import than many models to measure

    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    changed, texts = gained + lost, len(before)
    return Paired(
        metric=name,
        texts=texts,
        reference=float(before.mean()),
        accuracy=float(after.mean()),
        drop=(lost - gained) / texts,
        gained=gained,
        lost=lost,
        p_value=float(binomtest(lost, changed, 0.5).pvalue) if changed else 1.0,
        interval=_agresti_min(gained, lost, texts),
        bound=proportion_bound(lost, gained, texts),
    )


def _agresti_min(gained: int, lost: int, texts: int) -> tuple[float, float]:
    """Return a Wald interval after half a text is added to each of the four paired counts."""
    total = texts + 2
    drop = (lost - gained) / total
    variance = (lost + gained + 1) - (lost - gained) ** 2 / total
    half = NORMAL_QUANTILE * np.sqrt(variance) / total
    return float(drop - half), float(drop + half)


def compare(
    candidates: Mapping[str, Callable[[], object]], reference: str, *, rounds: int, calls: int
) -> dict[str, Latency]:
    """Measure all candidates in interleaved rounds.

    Args:
        candidates: Callables by name; must contain ``reference``.
        reference: The candidate that has ratio 1.
        rounds: Number of rounds; the figures are medians over them.
        calls: Smallest number of calls per slice; slices shorter than 4 ms get more.
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
        interval=median_interval(ratios),
    )


def median_interval(values: FloatArray) -> tuple[float, float]:
    """Return the order statistics that enclose the median of a population with 95 % confidence.

    The number of values below the median is binomial with share 1/2 (Conover 1999, section 3.2).
    Fewer than 6 values enclose it with less confidence; all of them are the interval then.
    """
    ordered, count = np.sort(values), len(values)
    outside, below = 0, 0.0
    while (below := below + comb(count, outside) / 2**count) <= 0.025 and outside < count // 2:
        outside += 1
    first = max(outside - 1, 0)
    return float(ordered[first]), float(ordered[count - 1 - first])
