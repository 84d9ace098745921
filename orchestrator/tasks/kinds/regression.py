"""Regression: one number or several per row, of a text or two texts.

Metrics agree with SciPy: Spearman's rank correlation (the primary one), Pearson's correlation, and
the mean absolute error. Of several numbers, correlations are averaged.

Shapes: N rows, K numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.modeling.targets.answer_configs import RegressionConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import DrawMetric, Metric, mean, pearson, pearson_rows, spearman

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset
    from orchestrator.modeling.config import ModelConfig


@dataclass(frozen=True, slots=True)
class NumbersAnswer(Answer):
    """The predicted numbers of a row."""

    values: tuple[float, ...]


class RegressionTaskConfig(TaskConfig):
    """One number or several per row."""

    type: Literal["regression"] = "regression"
    num_values: int = 1
    """Numbers per row."""


@tasks.add
class Regression(Task[RegressionTaskConfig, NumbersAnswer]):
    """One number or several per row."""

    Config = RegressionTaskConfig
    has_labels = False
    target_types = ("regression",)

    @classmethod
    def form(cls) -> LabelForm:
        """Numbers per row."""
        return FORMS["regression"]

    @classmethod
    def options_for(cls, rows: "Rows", model: "ModelConfig | None" = None) -> dict[str, object]:
        """Rows have as many numbers as the head answers with."""
        del model
        return {"num_values": cls.form().size((), rows.labels)}

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return a head with one output per number."""
        return RegressionConfig(
            name=self.head,
            num_labels=self.config.num_values,
            pooling=options.pooling,
            hidden=options.hidden,
            dropout=options.dropout,
        )

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return rows with their numbers."""
        from orchestrator.data.samples.labelled_samples import ClsSamples

        return ClsSamples(rows, text_processor(processor), self.head, max_length)

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[NumbersAnswer]:
        """Return the outputs as they are."""
        del readings
        return [NumbersAnswer(tuple(np.asarray(row, np.float64).tolist())) for row in outputs]

    def metrics(self) -> tuple[Metric, ...]:
        """Return Spearman, Pearson, and the mean absolute error."""
        return (
            DrawMetric("spearman", _averaged(spearman), order=_closeness, span=2.0),
            DrawMetric("pearson", _averaged(_pearson), order=_closeness, span=2.0),
            mean("mae", higher_is_better=False),
        )

    def statistics(self, rows: "Rows", answers: Sequence[NumbersAnswer]) -> dict[str, FloatArray]:
        """Return statistics per row of each metric."""
        truth = np.asarray(rows.labels, dtype=np.float64).reshape(len(answers), -1)
        values = np.asarray([answer.values for answer in answers], dtype=np.float64)
        both = np.stack([truth, values], axis=-1).reshape(len(truth), -1)
        error = np.abs(truth - values).sum(axis=1)
        terms = np.full_like(error, truth.shape[1])
        return {"spearman": both, "pearson": both, "mae": np.stack([error, terms], axis=1)}


def _pearson(rows: FloatArray) -> float:
    return float(pearson(pearson_rows(rows[:, 0], rows[:, 1]).sum(axis=0)))


def _averaged(correlation: Callable[[FloatArray], float]) -> Callable[[FloatArray], float]:
    """Return the mean of a correlation over K numbers, from statistics [M, 2 K]."""

    def average(rows: FloatArray) -> float:
        columns = rows.reshape(len(rows), -1, 2)
        return float(np.mean([correlation(columns[:, k]) for k in range(columns.shape[1])]))

    return average


def _closeness(rows: FloatArray) -> FloatArray:
    """Return how near each row is to its truth: minus the summed distance."""
    columns = rows.reshape(len(rows), -1, 2)
    return np.asarray(-np.abs(columns[..., 0] - columns[..., 1]).sum(axis=1))
