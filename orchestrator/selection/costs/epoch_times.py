"""Seconds that the epochs of each candidate take: guesses before the start, then measurements."""

import heapq
import math
from collections.abc import Iterable, Mapping
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
    model without a guess takes the median of the measured ones. An epoch is its training and one
    evaluation: of a rung that is a part of an epoch only the training is shorter.

    Attributes:
        source: Origin of the expectation, in words.
        overhead_s: Seconds per epoch of a model outside of its training: start-up, loading, saving.

    Args:
        guesses: Model to seconds per epoch, from the matrix; may be empty.
        overhead_s: Start-up, from the matrix; None: unknown.
        ratios_only: Whether only the ratios of the guesses mean anything.
        steps_per_epoch: Optimizer steps of an epoch; None: every row is a whole one.
        evaluation: Share of an epoch's seconds that its evaluation takes, until it is measured.
    """

    def __init__(
        self,
        guesses: Mapping[str, float],
        overhead_s: float | None = None,
        *,
        ratios_only: bool = False,
        steps_per_epoch: int | None = None,
        evaluation: float = 0.0,
    ) -> None:
        self._guesses, self._measured = dict(guesses), dict[str, float]()
        self._ratios_only = ratios_only
        self._steps, self._evaluation = steps_per_epoch, evaluation
        self._evaluations = dict[str, float]()
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
        """Read measured rungs; the last one of each model in which it was trained counts."""
        for row in rows:
            if row.phase != "rung" or row.validation is None or row.seconds <= 0:
                continue
            part = row.steps / self._steps if self._steps and row.steps else row.epochs
            if row.steps == 0 and row.learning_rate is not None:
                continue  # all its steps were taken when its learning rate was tried
            training = max(0.0, row.seconds - row.evaluation_s)
            self._measured[row.trial] = training / part + row.evaluation_s
            self._evaluations[row.trial] = row.evaluation_s
            self.source = "the measured epochs"
            self.overhead_s = self.overhead_s or row.startup_s

    def add_rung(self, models: Mapping[str, float], slots: float, seconds: float) -> None:
        """Learn the overhead from the wall time of a complete rung.

        Args:
            models: Model to the seconds of its work in the rung; 0: as usual.
            slots: Trials that fit at once.
            seconds: Wall time.
        """
        found = [work or self.of(model) for model, work in models.items()]
        if known := [work for work in found if work is not None]:
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

    def rung(
        self, models: Iterable[str], slots: float, epochs: float = 1.0, starts: int = 1
    ) -> float | None:
        """Expected wall seconds of a rung; None: nothing is known.

        Args:
            models: Models of the rung.
            slots: Trials that fit at once.
            epochs: Epochs that each of them trains.
            starts: Times that each of them starts and evaluates.
        """
        found = [self._work(model, epochs, starts) for model in models]
        known = [seconds for seconds in found if seconds is not None]
        return makespan(known, slots) if len(known) == len(found) else None

    def _work(self, model: str, epochs: float, starts: int) -> float | None:
        whole = self.of(model)
        if whole is None:
            return None
        evaluation = self._evaluations.get(model)
        if evaluation is None:
            shares = [s / self._measured[m] for m, s in self._evaluations.items()]
            evaluation = whole * (median(shares) if shares else self._evaluation)
        return (whole - evaluation) * epochs + starts * (evaluation + self.overhead_s)


def makespan(seconds: Iterable[float], slots: float) -> float:
    """Wall time of jobs on equal slots when the longest starts first."""
    ends = [0.0] * max(1, int(slots))
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + job)
    return max(ends)


def times_of_matrix(
    matrix: "PerformanceMatrix",
    models: Iterable[str],
    rows: int | None,
    *,
    steps_per_epoch: int | None = None,
    evaluation: float = 0.0,
) -> EpochTimes:
    """Guesses from the epochs that a benchmark timed: seconds grow with the training rows.

    Args:
        matrix: May have no times. Where it does not say how many rows its data sets had (imported
            tables), only the ratios between models are used, once one is measured.
        models: Candidates.
        rows: Training rows of the target; None: not read yet.
        steps_per_epoch: Optimizer steps of an epoch on the target.
        evaluation: Share of an epoch's seconds that its evaluation takes.
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
    return EpochTimes(
        guesses,
        overhead,
        ratios_only=not absolute,
        steps_per_epoch=steps_per_epoch,
        evaluation=evaluation,
    )
