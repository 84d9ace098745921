"""Evaluation of one task: every metric, a table per label, confusion, calibration, worst rows.

Shapes: N rows, K labels.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.data.rows.rows import WORD_BREAK, Rows
from orchestrator.finetuning.evaluating.results import (
    AnswerReport,
    CalibrationBin,
    Confusion,
    LabelFigures,
    WorstRow,
)
from orchestrator.tasks.base import Answer, AnyTask
from orchestrator.tasks.intervals import Comparison, Estimate
from orchestrator.tasks.measure import Measured
from orchestrator.zoo.suite import Difference, Figure

SHOWN_CHARACTERS: Final = 300
"""Longest text of a row that is listed."""
WORST: Final = 20
"""Rows with the worst answers that are listed."""
LONG_VALUES: Final = 24
"""Longer lists in an answer, such as vectors, are left out of the list of rows."""


def figures(measured: Measured) -> tuple[dict[str, Figure], tuple[str, ...]]:
    """Return the metrics that are defined, and the names of the others."""
    found = {name: _figure(value) for name, value in measured.metrics.items()}
    defined = {name: figure for name, figure in found.items() if figure is not None}
    return defined, tuple(name for name in found if name not in defined)


def differences(compared: Mapping[str, Comparison]) -> dict[str, Difference]:
    """Return the paired differences of the metrics that are defined for both."""
    return {
        name: Difference(
            parent=found.parent,
            drop=found.drop,
            low=found.low,
            high=found.high,
            bound=found.bound,
            lost=found.lost,
            gained=found.gained,
            p_value=found.p_value,
        )
        for name, found in compared.items()
        if isfinite(found.drop)
    }


def report_answers(
    task: AnyTask, rows: Rows, answers: Sequence[Answer], measured: Measured, count: int = WORST
) -> AnswerReport:
    """Return what a report shows of the answers to rows.

    Args:
        task: The task.
        rows: Its rows.
        answers: The answers to them.
        measured: Their metrics.
        count: Number of worst rows.
    """
    return AnswerReport(
        labels=label_table(measured),
        confusion=confusion(task, rows, answers),
        calibration=calibration(measured.statistics),
        worst=worst(task, rows, answers, measured, count),
    )


def label_table(measured: Measured) -> tuple[LabelFigures, ...]:
    """Return precision, recall and F1 of each label that has them."""
    prefix = "f1."
    names = [name.removeprefix(prefix) for name in measured.metrics if name.startswith(prefix)]
    rows = []
    for label in names:
        # Right, answered and actual of each row, see ``tasks.metrics.f1``.
        sums = measured.statistics[f"{prefix}{label}"].sum(axis=0)
        of_label = {
            name: _figure(measured.metrics[f"{name}.{label}"])
            for name in ("precision", "recall", "f1")
        }
        rows.append(
            LabelFigures(label=label, rows=round(sums[2]), answered=round(sums[1]), **of_label)
        )
    return tuple(rows)


def confusion(task: AnyTask, rows: Rows, answers: Sequence[Answer]) -> Confusion | None:
    """Return the confusion matrix of one label per row, or per word; None for other answers."""
    pairs = _pairs(task, rows, answers)
    if pairs is None:
        return None
    number = {label: index for index, label in enumerate(task.labels)}
    counts = np.zeros((len(task.labels), len(task.labels)), dtype=np.int64)
    for truth, given in pairs:
        counts[truth, number[given]] += 1
    return Confusion(labels=task.labels, counts=tuple(tuple(row) for row in counts.tolist()))


def _pairs(task: AnyTask, rows: Rows, answers: Sequence[Answer]) -> list[tuple[int, str]] | None:
    """Return number of the truth and name of the answer, of each row or word."""
    if not task.labels or not answers:
        return None
    first: Any = answers[0]
    if isinstance(getattr(first, "label", None), str):
        labels = [getattr(answer, "label", "") for answer in answers]
        return list(zip(np.asarray(rows.labels).tolist(), labels, strict=True))
    if isinstance(getattr(first, "tags", None), tuple):
        tags = [getattr(answer, "tags", ()) for answer in answers]
        return [
            pair
            for truth, given in zip(rows.labels, tags, strict=True)
            for pair in zip(truth.tolist(), given, strict=False)
        ]
    return None


def calibration(statistics: Mapping[str, FloatArray]) -> tuple[CalibrationBin, ...]:
    """Return the bins of the calibration error that hold answers, by confidence."""
    if "ece" not in statistics:
        return ()
    count, confidence, right = np.split(statistics["ece"].sum(axis=0), 3)
    return tuple(
        CalibrationBin(rows=round(n), confidence=c / n, accuracy=r / n)
        for n, c, r in zip(count.tolist(), confidence.tolist(), right.tolist(), strict=True)
        if n > 0
    )


def worst(
    task: AnyTask, rows: Rows, answers: Sequence[Answer], measured: Measured, count: int
) -> tuple[WorstRow, ...]:
    """Return the rows with the worst answers.

    The primary metric orders them; among equals, the probability of the truth where answers have
    one.
    """
    metrics = {metric.name: metric for metric in task.metrics()}
    keys = [
        metrics[name].quality(measured.statistics[name])
        for name in ("auc", task.primary.name)
        if name in metrics
    ]
    order = np.lexsort(keys)[:count]  # the last key is the first to count
    return tuple(
        WorstRow(
            row=int(index),
            text=_shown(rows.texts[index]) if rows.texts else "",
            pair=None if rows.pairs is None else _shown(rows.pairs[index]),
            truth=_truth(task, rows, index),
            answer=_short(answers[index].to_json()),
        )
        for index in order
    )


def _truth(task: AnyTask, rows: Rows, index: int) -> Any:
    """Return what is right in words."""
    value = rows.labels[index]
    if not task.labels:
        return _plain(value)
    if isinstance(value, np.ndarray) and rows.labels.dtype != object:
        return [label for label, flag in zip(task.labels, value, strict=True) if flag]
    if isinstance(value, np.ndarray):
        return [task.labels[number] for number in value]
    return task.labels[int(value)]


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: arrays and tuples as lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _short(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without its long lists."""
    return {
        name: _plain(value)
        for name, value in answer.items()
        if not (isinstance(value, list | tuple) and len(value) > LONG_VALUES)
    }


def _shown(text: str) -> str:
    text = text.replace(WORD_BREAK, " ")
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _figure(estimate: Estimate) -> Figure | None:
    values = (estimate.value, estimate.low, estimate.high)
    if not all(map(isfinite, values)):
        return None
    return Figure(value=estimate.value, low=estimate.low, high=estimate.high)
