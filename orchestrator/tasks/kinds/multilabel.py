"""Multi-label classification: any number of labels per row.

Metrics agree with scikit-learn: micro and macro F1, subset accuracy, precision, recall and F1 per
label. A label is given when its probability reaches the threshold, which is chosen on validation
rows for the best micro F1.

Shapes: N rows, K labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.modeling.targets.answer_configs import MultilabelConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import Metric, SumMetric, f1, macro_f1, precision, recall, share
from orchestrator.tasks.numerics import sigmoid

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset


@dataclass(frozen=True, slots=True)
class LabelsAnswer(Answer):
    """The labels whose probability reaches the threshold, and the probability of each.

    Attributes:
        labels: Names, in the order of the labels.
        scores: Probability of every label, in that order.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]


class MultilabelTaskConfig(TaskConfig):
    """Any number of labels per row."""

    type: Literal["multilabel"] = "multilabel"
    threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Probability from which a label is given; fine-tuning chooses it on validation rows."""


@tasks.add
class Multilabel(Task[MultilabelTaskConfig, LabelsAnswer]):
    """Any number of labels per row."""

    Config = MultilabelTaskConfig
    target_types = ("multilabel",)

    @classmethod
    def form(cls) -> LabelForm:
        """Any number of names per row."""
        return FORMS["multilabel"]

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return a head with one output per label."""
        return MultilabelConfig(
            name=self.head,
            num_labels=len(self.labels),
            pooling=options.pooling,
            hidden=options.hidden,
            dropout=options.dropout,
        )

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return rows with a 0 or 1 per label."""
        from orchestrator.data.samples.labelled_samples import ClsSamples

        return ClsSamples(rows, text_processor(processor), self.head, max_length)

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[LabelsAnswer]:
        """Return the labels above the threshold of each row."""
        del readings
        scores = sigmoid(np.stack(outputs)) if len(outputs) else np.zeros((0, 1))
        return [self._answer(row) for row in scores]

    def _answer(self, scores: FloatArray) -> LabelsAnswer:
        given = [
            label
            for label, score in zip(self.labels, scores, strict=True)
            if score >= self.config.threshold
        ]
        return LabelsAnswer(tuple(given), tuple(scores.tolist()))

    def adapted(self, rows: "Rows", answers: Sequence[LabelsAnswer]) -> "Multilabel":
        """Return this task with the threshold of the best micro F1 on validation rows.

        Candidates are the probabilities that occur; of equally good ones, the nearest to 0.5.
        """
        truth = np.asarray(rows.labels, dtype=bool)
        scores = np.asarray([answer.scores for answer in answers])
        order = np.argsort(-scores.ravel(), kind="stable")
        sorted_scores = scores.ravel()[order]
        right = np.cumsum(truth.ravel()[order])
        given = np.arange(1, len(order) + 1)
        # A threshold lies between two different probabilities.
        last = np.append(sorted_scores[1:] < sorted_scores[:-1], True)
        values = np.where(last, 2 * right / (given + truth.sum()), -1.0)
        best = np.flatnonzero(values >= values.max() - 1e-12)
        chosen = best[np.abs(sorted_scores[best] - 0.5).argmin()]
        threshold = float(np.clip(sorted_scores[chosen], 1e-6, 1 - 1e-6))
        return Multilabel(MultilabelTaskConfig(threshold=threshold), self.labels, self.head)

    def metrics(self) -> tuple[Metric, ...]:
        """Return micro F1, then the others, then precision, recall and F1 of each label."""
        measures = {"precision": precision, "recall": recall, "f1": f1}
        return (
            SumMetric("micro_f1", f1),
            SumMetric("macro_f1", macro_f1),
            share("subset_accuracy"),
            *(
                SumMetric(f"{name}.{label}", measure, order=_agreement)
                for label in self.labels
                for name, measure in measures.items()
            ),
        )

    def statistics(self, rows: "Rows", answers: Sequence[LabelsAnswer]) -> dict[str, FloatArray]:
        """Return statistics per row of each metric."""
        actual = np.asarray(rows.labels, dtype=np.float64)
        given = np.asarray(
            [[label in answer.labels for label in self.labels] for answer in answers],
            dtype=np.float64,
        )
        counts = np.stack([given * actual, given, actual], axis=-1)
        exact = (given == actual).all(axis=1).astype(np.float64)
        found = {
            "micro_f1": counts.sum(axis=1),
            "macro_f1": counts.reshape(len(actual), -1),
            "subset_accuracy": np.stack([exact, np.ones_like(exact)], axis=1),
        }
        for index, label in enumerate(self.labels):
            found |= {f"{name}.{label}": counts[:, index] for name in ("precision", "recall", "f1")}
        return found


def _agreement(rows: FloatArray) -> FloatArray:
    """Return 1 where a label is rightly given, -1 where it is missed or wrongly given, else 0."""
    return np.asarray(2 * rows[:, 0] - np.maximum(rows[:, 1], rows[:, 2]))
