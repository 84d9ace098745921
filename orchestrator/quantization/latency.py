"""Compare the speed of several callables on a machine that is busy with other things.

Every round calls every candidate, in an order that is reversed every other round; each candidate
is compared with the reference *of the same round*, and the median of these ratios is reported. The
reference is called several times a round, evenly between the others, and its median counts: its
noise would be in every ratio. Time is the calling thread's CPU time (one thread computes
everything), which equals wall time on an idle core and does not count the time other programs had
the core; wall time is reported beside it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

WARM_UP_CALLS: Final = 2
MINIMUM_SLICE_S: Final = 2e-3
REFERENCE_SLICES: Final = 5


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one call: CPU and wall milliseconds, and the ratio of CPU time to the reference."""

    cpu_ms: float
    wall_ms: float
    ratio: float
    spread: tuple[float, float]
    """Smallest and largest ratio over the rounds."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {**asdict(self), "spread": list(self.spread)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Latency":
        """Read what ``to_json`` wrote."""
        low, high = content["spread"]
        return cls(**{**content, "spread": (low, high)})


def compare(
    candidates: Mapping[str, Callable[[], object]], reference: str, *, rounds: int, calls: int
) -> dict[str, Latency]:
    """Measure all candidates in interleaved rounds.

    Args:
        candidates: what to call, by name; must contain ``reference``.
        reference: the candidate that has ratio 1.
        rounds: number of rounds; the figures are medians over them.
        calls: calls in one slice at least; slices shorter than 2 ms are lengthened.
    """
    counts = {name: _calibrated(call, calls) for name, call in candidates.items()}
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


def _calibrated(call: Callable[[], object], calls: int) -> int:
    for _ in range(WARM_UP_CALLS):
        call()
    cpu, _ = _slice(call, 1)
    return max(calls, int(np.ceil(MINIMUM_SLICE_S / max(cpu, 1e-6))))


def _slice(call: Callable[[], object], calls: int) -> tuple[float, float]:
    cpu, wall = time.thread_time(), time.perf_counter()
    for _ in range(calls):
        call()
    return (time.thread_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def _summary(times: npt.NDArray[np.float64], base: npt.NDArray[np.float64]) -> Latency:
    ratios = times[:, 0] / base
    return Latency(
        cpu_ms=float(median(times[:, 0])) * 1e3,
        wall_ms=float(median(times[:, 1])) * 1e3,
        ratio=float(median(ratios)),
        spread=(float(ratios.min()), float(ratios.max())),
    )
