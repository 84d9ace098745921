"""Score and time of the files of a package, measured in the same way in checks and at the end.

Time is the CPU time of the calling thread, one text per call and one thread: on an idle core it
equals wall time, and other programs on the machine are not in it. Each text is called several
times; its median counts, and the 95th percentile over the texts is the figure. It contains the
spread of text lengths, which a time at one length does not.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.config import StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.inference.inputs import items_of_rows
from orchestrator.inference.predictor import Predictor
from orchestrator.selection.target_tasks import TargetTask
from orchestrator.selection.trials.loading import task_of

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows
    from orchestrator.tasks.base import Answer, AnyTask
    from orchestrator.tasks.metrics import Metric

PERCENTILE = 95
WARM_UP = 3
Split = Literal["validation", "test"]
CHECK_TEXTS, CHECK_CALLS = 64, 3
FULL_TEXTS, FULL_CALLS, FULL_ROUNDS = 512, 3, 3


class FilesToMeasure(StrictModel):
    """Files of a package and the rows that they answer; goes to a worker."""

    folder: str
    """Folder with the files, on storage that every worker sees."""
    data: DatasetSpec
    """The rows; local paths are absolute."""
    asked: TargetTask
    """Task of the rows, and the metric."""
    max_length: int
    """Tokens that texts are cut to."""
    split: Split
    """Rows that are answered."""
    timed: bool = False
    """Measure the time of one text as well."""


class FileFigures(StrictModel):
    """Figures of the files of a package."""

    score: float
    """Primary metric."""
    p95_ms: float = 0.0
    """95th percentile of the time of one text; 0 where not measured."""


def measure(files: FilesToMeasure) -> FileFigures:
    """Measure the files of a package; runs in a worker."""
    data = task_of(files.data, files.asked.kind)
    task, rows = files.asked.answering(data), data.split(files.split)
    predictor = open_files(Path(files.folder), {task.head: task}, files.max_length)
    answers, p95 = predictor.answers(rows, task.head), 0.0
    score = score_of(task, task.primary, rows, answers).score
    if files.timed:
        p95 = percentile_ms(
            predictor, task.head, rows, texts=FULL_TEXTS, calls=FULL_CALLS, rounds=FULL_ROUNDS
        )
    return FileFigures(score=score, p95_ms=p95)


@dataclass(frozen=True)
class Scored:
    """Score of some answers.

    Attributes:
        score: Value of the metric.
        statistics: Statistics of that metric per row, [N, S].
    """

    score: float
    statistics: FloatArray


def open_files(folder: Path, tasks: Mapping[str, "AnyTask"], max_length: int) -> Predictor:
    """Load the files of a package, as a server would."""
    return Predictor.open_folder(folder, dict(tasks), max_length=max_length)


def score_of(task: "AnyTask", metric: "Metric", rows: "Rows", answers: "list[Answer]") -> Scored:
    """Return a metric of answers, and its statistics per row."""
    statistics = task.statistics(rows, answers)[metric.name]
    return Scored(float(metric.value(np.ones((1, len(rows))), statistics)[0]), statistics)


def percentile_ms(
    predictor: Predictor, head: str, rows: "Rows", *, texts: int, calls: int, rounds: int = 1
) -> float:
    """Return the 95th percentile of the time of one text, in milliseconds.

    Args:
        predictor: The loaded package.
        head: Head that is asked.
        rows: Their texts are run; evenly spaced ones where there are more than ``texts``.
        texts: Texts at most.
        calls: Calls per text; their median counts.
        rounds: Repeats of it all; the slowest counts, so that a repeated measurement keeps a limit
            that this one keeps.

    Raises:
        InputError: The rows are not texts.
    """
    if predictor.reader is None:
        raise InputError(f"{predictor.ref}: only texts are timed.")
    task = predictor.task(head)
    places = np.unique(np.linspace(0, len(rows) - 1, texts).round().astype(int))
    encoded = predictor.reader.encode(items_of_rows(rows.take(places), task), task)
    inputs = [list(each.sequences) for each in encoded]
    for sequences in inputs[:WARM_UP]:
        predictor.run(sequences, (head,))
    found = []
    for _ in range(rounds):
        times = []
        for sequences in inputs:
            called = []
            for _ in range(calls):
                began = time.thread_time()
                predictor.run(sequences, (head,))
                called.append(time.thread_time() - began)
            times.append(median(called))
        found.append(1000 * float(np.percentile(times, PERCENTILE, method="higher")))
    return max(found)
