"""Results of ``orchestrator evaluate``, as the run folder holds them. Light: no torch, no Ray."""

from typing import Literal

from pydantic import Field, JsonValue

from orchestrator.config import StrictModel
from orchestrator.zoo.suite import DataRecord, Difference, Figure, TaskSpec

EVALUATION_FILE = "evaluation.json"
"""The report, in the run folder."""
ANSWERS_FILE = "test_answers.json"
"""Answers to test rows, in the folder of a fine-tuning run."""


class LabelFigures(StrictModel):
    """One class, label or type of span."""

    label: str
    """Its name."""
    rows: int
    """Number of rows with this truth."""
    answered: int
    """Number of rows with this answer."""
    precision: Figure | None = None
    """Share of its answers that are right; null: undefined on these rows."""
    recall: Figure | None = None
    """Share of its truths that are found; null: undefined on these rows."""
    f1: Figure | None = None
    """Harmonic mean of both."""


class Confusion(StrictModel):
    """Counts of each answer by each truth."""

    labels: tuple[str, ...]
    """Names, of rows and of columns."""
    counts: tuple[tuple[int, ...], ...]
    """Truth by row, answer by column."""


class CalibrationBin(StrictModel):
    """Answers of similar confidence."""

    rows: int
    """Number of answers."""
    confidence: float
    """Their mean confidence."""
    accuracy: float
    """Share of them that are right."""


class WorstRow(StrictModel):
    """One of the rows with the worst answers."""

    row: int
    """Number of the row among those that were answered, from 0."""
    text: str
    """Its text, cut."""
    pair: str | None = None
    """Its second text, cut."""
    truth: JsonValue
    """Right answer."""
    answer: JsonValue
    """Answer of the package."""


class AnswerReport(StrictModel):
    """Answers to the rows of one task, beside its metrics."""

    labels: tuple[LabelFigures, ...] = ()
    """One row per label."""
    confusion: Confusion | None = None
    """null: answers are not one label each."""
    calibration: tuple[CalibrationBin, ...] = ()
    """Bins that hold answers, by confidence."""
    worst: tuple[WorstRow, ...] = ()
    """Rows with the worst answers, worst first."""


class StoredAnswers(StrictModel):
    """``test_answers.json`` of a run: texts of rows stay in its folder, out of the package."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    heads: dict[str, AnswerReport]
    """Answers to test rows by head."""


class EvaluationReport(AnswerReport):
    """One package on the rows of one task."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    package: str
    """Reference of the package."""
    package_sha256: str
    """Digest of its manifest."""
    task: TaskSpec
    """Task that the package answered."""
    data: DataRecord
    """Origin of the rows."""
    split: str
    """Split of the rows: train, validation, test or all."""
    rows: int
    """Number of rows."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Rows that could not be read, by reason."""
    unknown_share: float | None = None
    """Share of tokens that the tokenizer does not know; null: the rows have no texts."""
    primary: str
    """The metric that decides."""
    metrics: dict[str, Figure]
    """Every metric with its 95 % interval."""
    undefined: tuple[str, ...] = ()
    """Metrics that these rows leave undefined, such as the AUC of one class."""
    compared: str | None = None
    """Reference of the other package."""
    differences: dict[str, Difference] = Field(default_factory=dict)
    """Paired differences, by metric; ``parent`` is the other package's value."""
