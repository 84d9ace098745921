"""Dispatch: which sequences share a run of the model, by times that were measured on the host.

A run of B sequences of S tokens takes ``overhead + B (token S + square S^2)`` seconds; the three
numbers are fitted to measured shapes. Sequences are sorted by length. Of all ways to cut them into
runs, padding included, the cheapest is taken. Where a run costs nothing beside its tokens, each
sequence runs alone, without padding. A package carries the times of the host that made it; another
host measures its own, once.

Where nothing is measured, runs are as large as the token limit allows.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from orchestrator.arrays import AnyArray, FloatArray, IntArray
from orchestrator.config import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.quantization.backends.hosts import Host, this_host

DISPATCH_FILE: Final = "dispatch.json"
LENGTHS: Final = (8, 32, 128)
BATCHES: Final = (1, 4, 16)
"""Sequences of measured runs; no run has more than the largest."""
TOKENS_PER_THREAD: Final = 512
"""Longest run that is measured or made; what is larger only leaves the caches."""
JOINT_COST: Final = 1.02
"""A joint run must promise to save this much: times are known to a few percent."""
MEASURE_S: Final = 0.25
"""Rounds are repeated for this long."""
MIN_ROUNDS: Final = 2

Predict = Callable[[Mapping[str, AnyArray]], object]


class RunTime(StrictModel):
    """Time of one run."""

    batch: int = Field(ge=1)
    """Sequences."""
    length: int = Field(ge=1)
    """Tokens of each."""
    seconds: float = Field(gt=0)
    """CPU time with one thread, else wall time; the shortest of several rounds."""


class RunTimes(StrictModel):
    """Content of ``dispatch.json``: times of runs of a model on a host."""

    version: Literal[1] = 1
    """Version of this layout."""
    host: Host
    """Machine that they were measured on."""
    threads: int = Field(ge=1)
    """Threads of a run."""
    runs: tuple[RunTime, ...] = Field(min_length=3)
    """Measured shapes."""

    def fitted(self) -> tuple[float, float, float]:
        """Return overhead, seconds per token, and per squared length: least relative squares."""
        shape = np.asarray([(run.batch, run.length) for run in self.runs], dtype=np.float64)
        tokens = shape[:, 0] * shape[:, 1]
        terms = np.stack([np.ones_like(tokens), tokens, tokens * shape[:, 1]], axis=1)
        terms /= np.asarray([[run.seconds] for run in self.runs])
        used, found = [0, 1, 2], np.zeros(3)
        while used:  # a time is a sum of times: no part of it is negative
            found[:] = 0
            found[used] = np.linalg.lstsq(terms[:, used], np.ones(len(terms)), rcond=None)[0]
            if found.min() >= 0:
                break
            used.remove(int(found.argmin()))
        overhead, token, square = found.tolist()
        return overhead, token, square


def read_times(folder: Path, threads: int) -> RunTimes | None:
    """Return the times stored with a package; None: of another host or thread count, or none.

    Raises:
        IntegrityError: The file is not readable.
    """
    path = folder / DISPATCH_FILE
    if not path.is_file():
        return None
    try:
        found = RunTimes.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise IntegrityError(f"{DISPATCH_FILE} of the package is damaged: {error}") from error
    return found if (found.host, found.threads) == (this_host(), threads) else None


def measure_times(
    predict: Predict, *, vocabulary: int, longest: int, threads: int = 1
) -> RunTimes | None:
    """Measure runs of a model that reads tokens; None: it reads too few to tell.

    Args:
        predict: Runs ``input_ids`` and its companions [B, S].
        vocabulary: Number of tokens.
        longest: Most tokens of a sequence; 0: no limit.
        threads: Threads of a run.
    """
    lengths = sorted({min(length, longest or length) for length in LENGTHS})
    most = TOKENS_PER_THREAD * threads
    shapes = [(b, s) for s in lengths for b in BATCHES if b == 1 or b * s <= most]
    if len(shapes) < len(BATCHES):
        return None
    batches = [random_batch(*shape, vocabulary) for shape in shapes]
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = np.full(len(shapes), np.inf)
    rounds, end = 0, time.perf_counter() + MEASURE_S
    for batch in batches:
        predict(batch)
    while rounds < MIN_ROUNDS or time.perf_counter() < end:
        for index, batch in enumerate(batches):
            began = clock()
            predict(batch)
            seconds[index] = min(seconds[index], clock() - began)
        rounds += 1
    return RunTimes(
        host=this_host(),
        threads=threads,
        runs=tuple(
            RunTime(batch=b, length=s, seconds=max(1e-9, float(each)))
            for (b, s), each in zip(shapes, seconds, strict=True)
        ),
    )


def random_batch(size: int, length: int, vocabulary: int) -> dict[str, IntArray]:
    """Return a batch [B, S] of ordinary tokens without padding; always the same one."""
    rng = np.random.default_rng(0)
    ids = rng.integers(vocabulary // 2, max(vocabulary, 1), (size, length))
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


class Dispatch:
    """Cuts sequences into runs.

    Args:
        times: Of this host; None: not measured yet.
        measure: Measures them; None: this model is not measured.
    """

    def __init__(
        self,
        times: RunTimes | None = None,
        measure: Callable[[], RunTimes | None] | None = None,
    ) -> None:
        self._measure = measure
        self.times: RunTimes | None = None
        self._costs: dict[int, FloatArray] = {}
        self._take(times)

    def prepare(self) -> None:
        """Measure now what is not known yet."""
        if self.times is None and self._measure is not None:
            self._take(self._measure())
            self._measure = None

    def cut(self, lengths: Sequence[int], max_tokens: int) -> list[int]:
        """Return the number of sequences of each run.

        Args:
            lengths: Of the sequences, shortest first.
            max_tokens: Largest number of tokens in one run, padding included; a longer sequence
                runs alone.
        """
        if len(lengths) > BATCHES[-1]:
            self.prepare()
        if len(lengths) < 2 or self.times is None:
            return list(_full_runs(lengths, max_tokens))
        return self._cheapest(lengths, min(max_tokens, TOKENS_PER_THREAD * self.times.threads))

    def _take(self, times: RunTimes | None) -> None:
        self.times = times
        if times is not None:
            self._fitted = times.fitted()

    def _cheapest(self, lengths: Sequence[int], most: int) -> list[int]:
        """Return the cheapest cut, by dynamic programming over where a run ends."""
        best = np.zeros(len(lengths) + 1)
        taken = [0] * len(best)
        for stop, length in enumerate(lengths, 1):
            count = max(1, min(stop, most // length, BATCHES[-1]))
            totals = best[stop - count : stop][::-1] + self._cost(length)[:count]
            index = int(totals.argmin())
            best[stop], taken[stop] = totals[index], index + 1
        sizes, stop = [], len(lengths)
        while stop:
            sizes.append(taken[stop])
            stop -= taken[stop]
        return sizes[::-1]

    def _cost(self, length: int) -> FloatArray:
        """Return the time of a run of 1, 2, ... sequences of a length."""
        if length not in self._costs:
            overhead, token, square = self._fitted
            counts = np.arange(1, BATCHES[-1] + 1, dtype=np.float64)
            cost = overhead + counts * (token * length + square * length * length)
            self._costs[length] = np.where(counts > 1, JOINT_COST, 1.0) * cost
        return self._costs[length]


def _full_runs(lengths: Sequence[int], most: int) -> Iterator[int]:
    """Yield runs as large as the limit allows."""
    count = 0
    for length in lengths:  # this one is the longest of its run so far
        if count and (count + 1) * length > most:
            yield count
            count = 0
        count += 1
    if count:
        yield count
