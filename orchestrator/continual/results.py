"""Typed results of a continual-learning run. Imports neither torch nor ray.

The stage writes these classes; report and demo read them back.
"""

from typing import Literal

from pydantic import NonNegativeInt

from orchestrator.config import StrictModel
from orchestrator.training.events import Event
from orchestrator.training.history import CurvePosition, HistoryRow

MATRIX_FILE = "evaluation/accuracy_matrix.json"
"""Path of the :class:`StreamEvaluation` in a package."""

MatrixRows = tuple[tuple[float | None, ...], ...]
"""``R[i][j]``: test accuracy on task j after learning task i; null where not measured."""
Promotion = Literal["promoted", "refused", "not asked"]


class StreamFigures(StrictModel):
    """Figures of a stream (``metrics``); null: not defined for it."""

    average_accuracy: float
    """ACC: mean accuracy over all tasks at the end."""
    backward_transfer: float | None
    """BWT: mean change of a task's accuracy since it was learned."""
    forgetting: float | None
    """Mean fall of a task's accuracy from its best to the end."""
    learning_accuracy: float | None
    """Mean accuracy of each task when it was just learned."""


class StreamEvaluation(StrictModel):
    """``evaluation/accuracy_matrix.json`` of a package."""

    schema_version: Literal[1] = 1
    scenario: str
    """Whether the task is known at test time."""
    split: str
    """Rows that were measured."""
    rows: str
    """Meaning of a row of the matrix."""
    tasks: tuple[str, ...]
    """Names of the tasks in the order in which they were learned."""
    matrix: MatrixRows
    """Accuracy matrix, [T, T]."""
    majority_baseline: tuple[float, ...]
    """Accuracy of always answering the most frequent class, per task."""
    method: dict[str, str | bool]
    """``preset``, and which parts were on."""
    figures: StreamFigures
    """Summary of the matrix."""


class StreamSummary(StreamFigures):
    """Metrics of the package's manifest and of the job's result line."""

    tasks: tuple[str, ...]
    """Names of the tasks in order."""
    accuracy_matrix: MatrixRows
    """Accuracy matrix, [T, T]."""
    method: str
    """The preset."""
    steps: int
    """Optimizer steps of all tasks."""
    seconds: float
    """Training time of all tasks."""
    skipped_steps: int
    """Steps whose loss or gradient was not finite."""
    clamped_share: float | None
    """Share of weights at the box in the last logged interval; null without a box."""
    unwatched_heads: tuple[str, ...]
    """Heads the package came with whose tasks could not be examined."""
    unprotected_heads: tuple[str, ...] = ()
    """Heads the package came with that no part of the method protected."""
    promotion: Promotion
    """Whether the alias moved."""
    promotion_refused: bool
    """Whether the gate refused the package."""


class UnitRecord(StrictModel):
    """``stage.json`` of a finished unit in the run folder."""

    schema_version: Literal[1] = 1
    accuracy: dict[str, float]
    """Test accuracy of every task seen so far."""
    buffers: dict[str, tuple[NonNegativeInt, ...]]
    """Training rows to rehearse, by task."""
    steps: NonNegativeInt
    """Optimizer steps of the unit."""
    skipped: NonNegativeInt
    """Steps whose loss or gradient was not finite."""
    clamped_share: float | None
    """Share of weights at the box in the last logged interval."""
    seconds: float
    """Training time of the unit."""


class UnitLearned(Event):
    """Event of the workers: a unit is finished and committed."""

    unit: NonNegativeInt
    """Place in the stream."""
    task: str
    """Title of the unit."""
    record: UnitRecord
    """Its figures."""


class UnitState(StrictModel):
    """State beside a checkpoint within a unit."""

    unit: NonNegativeInt
    """Place in the stream."""
    step: NonNegativeInt
    """Optimizer steps done in the unit."""
    history: tuple[HistoryRow, ...] = ()
    """Learning curves of the unit, in checkpoints of earlier versions."""
    curves: CurvePosition | None = None
    """Place in the learning curves of the unit."""


class WorkerResult(StrictModel):
    """Return value of the workers."""

    finished: NonNegativeInt
    """Units that are committed."""
    stopped: bool
    """Whether the driver stopped the run before the last unit."""
