"""Speed of several callables, compared on a machine that is busy with other things.

Each round calls every candidate; the order is reversed every other round. A candidate is compared
with the reference *of the same round*, and the median of the ratios is reported. The reference is
called several times per round, evenly between the others, and its median counts: its noise would be
in every ratio. Time is the CPU time of the calling thread (one thread computes everything). On an
idle core it equals wall time, and it does not include the time that other programs had the core.
Wall time is reported beside it. No library interleaves candidates like this: pytest-benchmark and
timeit time one after the other, so that a slow minute of the machine falls on one of them.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Final

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.quantization.results import Latency

WARM_UP_CALLS: Final = 2
MIN_SLICE_S: Final = 2e-3
"""Shortest measured interval; the thread clock is too coarse for less."""
REFERENCE_SLICES: Final = 5
"""Calls of the reference per round."""


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
