"""Seconds that the epochs of each candidate take: guesses before the start, then measurements."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.selection.results import JournalRow, ProxyScore

if TYPE_CHECKING:
    from orchestrator.selection.matrix.performance import PerformanceMatrix

FORWARD_SHARE = 1 / 3
"""A forward pass costs about a third of a training step on the same rows."""


class EpochTimes:
    """Expected seconds of one epoch on the target.

    What this run measured counts first. Guesses are scaled by what the measured models took; a
    model without a guess takes the median of the measured ones.

    Attributes:
        source: Origin of the expectation, in words.
        overhead_s: Seconds per epoch of a model outside of its training: start-up, loading, saving.

    Args:
        guesses: Model to seconds per epoch, from the matrix; may be empty.
        overhead_s: Start-up, from the matrix; None: unknown.
        ratios_only: Whether only the ratios of the guesses mean anything.
    """

    def __init__(
        self,
        guesses: Mapping[str, float],
        overhead_s: float | None = None,
        *,
        ratios_only: bool = False,
    ) -> None:
        self._guesses, self._measured = dict(guesses), dict[str, float]()
        self._ratios_only = ratios_only
        self.source = "the matrix" if guesses and not ratios_only else ""
        self.overhead_s = overhead_s or 0.0

    def add_proxies(self, scores: Mapping[str, ProxyScore], rows: int) -> None:
        """Guess from forward passes where the matrix has no times.

        Args:
            scores: Model to its scores, with the time of the pass.
            rows: Training rows of one epoch.
        """
        if self.source:
            return
        self._guesses, self._ratios_only = {}, False
        for model, score in scores.items():
            if score.seconds > 0 and score.rows and not score.cached:
                self._guesses[model] = score.seconds / score.rows * rows / FORWARD_SHARE
                self.source = "the proxy passes"

    def add_rows(self, rows: Iterable[JournalRow]) -> None:
        """Read measured epochs; the last one of each model counts."""
        for row in rows:
            if row.phase == "rung" and row.validation is not None and row.seconds > 0:
                self._measured[row.trial] = row.seconds
                self.source = "the measured epochs"
                self.overhead_s = self.overhead_s or row.startup_s

    def add_rung(self, models: Sequence[str], slots: float, seconds: float) -> None:
        """Learn the overhead from the wall time of a complete rung."""
        known = [found for model in models if (found := self.of(model)) is not None]
        if known:
            spare = max(0.0, seconds - makespan(known, slots))
            self.overhead_s = spare / math.ceil(len(models) / slots)

    def of(self, model: str) -> float | None:
        """Expected seconds of one epoch of a model; None: nothing is known."""
        if model in self._measured:
            return self._measured[model]
        if self._ratios_only and not self._measured:
            return None
        both = self._guesses.keys() & self._measured.keys()
        ratio = median(self._measured[m] / self._guesses[m] for m in both) if both else 1.0
        if model in self._guesses:
            return self._guesses[model] * ratio
        others = self._measured or self._guesses
        return median(others.values()) if others else None

    def rung(self, models: Iterable[str], slots: float) -> float | None:
        """Expected wall seconds of one epoch of each model; None: nothing is known."""
        found = [self.of(model) for model in models]
        known = [seconds + self.overhead_s for seconds in found if seconds is not None]
        return makespan(known, slots) if len(known) == len(found) else None


def makespan(seconds: Iterable[float], slots: float) -> float:
    """Wall time of jobs on equal slots when the longest starts first."""
    ends = [0.0] * max(1, int(slots))
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + job)
    return max(ends)


def times_of_matrix(
    matrix: "PerformanceMatrix", models: Iterable[str], rows: int | None
) -> EpochTimes:
    """Guesses from the epochs that a benchmark timed: seconds grow with the training rows.

    Args:
        matrix: May have no times. Where it does not say how many rows its data sets had (imported
            tables), only the ratios between models are used, once one is measured.
        models: Candidates.
        rows: Training rows of the target; None: not read yet.
    """
    cells = matrix.cells[matrix.cells["model"].isin(list(models))]
    startup = cells["startup_s"].dropna()
    overhead = float(startup.median()) if len(startup) else None
    counts = cells["dataset"].map({name: f.train_rows for name, f in matrix.datasets.items()})
    seconds, absolute = cells["seconds"].where(cells["seconds"] > 0), False
    if rows is not None and (counts > 0).any():
        seconds, absolute = seconds / counts.where(counts > 0) * rows, True
    found = seconds.groupby(cells["model"]).median().dropna().to_dict()
    guesses = {str(model): float(value) for model, value in found.items()}
    return EpochTimes(guesses, overhead, ratios_only=not absolute)
