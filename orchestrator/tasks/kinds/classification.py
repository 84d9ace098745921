"""Classification: one label per row, of a text, two texts, an image or a recording.

Metrics agree with scikit-learn: accuracy, macro F1 over the classes that occur or are predicted,
Matthews correlation (Gorodkin 2004), precision, recall and F1 per class, one-against-rest ROC AUC,
and the expected calibration error in 15 bins (Guo et al. 2017).

Shapes: N rows, K classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.processors.templates import Template
from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.errors import InputError, Problem
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig
from orchestrator.modeling.targets.token_configs import PromptConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import (
    Metric,
    SumMetric,
    WeightedMetric,
    calibration_error,
    calibration_rows,
    confusion,
    f1,
    macro_f1,
    matthews,
    precision,
    recall,
    roc_auc,
    share,
)
from orchestrator.tasks.numerics import softmax
from orchestrator.zoo.suite import TaskSpec

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset


@dataclass(frozen=True, slots=True)
class ClassAnswer(Answer):
    """The most probable class, and the probability of each.

    Attributes:
        label: Name of the class.
        score: Its probability.
        scores: Probability of every class, in the order of the labels.
    """

    label: str
    score: float
    scores: tuple[float, ...]


Words = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""One word or several."""


class ClassificationConfig(TaskConfig):
    """One label per row."""

    type: Literal["classification"] = "classification"
    template: str | None = None
    """Classify by words: text with ``{text}``, ``{mask}`` and, for pairs, ``{text_b}``, as in
    ``It was {mask}. {text}``; null: a head of its own."""
    verbalizer: dict[str, Words] | None = None
    """The word, or words, at the mask that stand for each class; of several, logits are averaged.
    Each is one token of the package."""

    def problems(self) -> Iterable[Problem]:
        """Template and verbalizer belong together, and a word stands for one class."""
        if (self.template is None) != (self.verbalizer is None):
            missing = "template" if self.template is None else "verbalizer"
            yield Problem(missing, "is missing: template and verbalizer belong together.")
        if self.template is not None:
            for message in Template(self.template).problems():
                yield Problem("template", message)
        words = [word for words in (self.verbalizer or {}).values() for word in words]
        for word in dict.fromkeys(words):
            if words.count(word) > 1:
                yield Problem("verbalizer", f"has {word!r} twice. A word stands for one class.")


@tasks.add
class Classification(Task[ClassificationConfig, ClassAnswer]):
    """One label per row."""

    Config = ClassificationConfig
    modalities: frozenset[str] = frozenset({"text", "pair", "image", "audio"})
    target_types = ("cls", "prompt", "sp", "nsp", "sop", "siamese")

    def __init__(self, config: ClassificationConfig, labels: Sequence[str], head: str) -> None:
        super().__init__(config, labels, head)
        if config.template is None:
            return
        self.template = Template(config.template)
        self.modalities = frozenset({"pair" if self.template.reads_pair else "text"})
        named = config.verbalizer or {}
        if set(named) != set(self.labels):
            raise InputError(
                f"task {head!r}: the verbalizer names {', '.join(sorted(named))}, the classes are "
                f"{', '.join(self.labels)}. Give words for each class."
            )

    @property
    def spec(self) -> TaskSpec:
        """The task as a package stores it; without options that it does not use."""
        found = super().spec
        used = {name: value for name, value in found.options.items() if value is not None}
        return found.model_copy(update={"options": used})

    @classmethod
    def form(cls) -> LabelForm:
        """A class per row."""
        return CLASSES

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return a head with one output per class, or with the words of each."""
        if self.config.verbalizer is not None:
            words = tuple(self.config.verbalizer[label] for label in self.labels)
            return PromptConfig(name=self.head, words=words)
        return ClsConfig(
            name=self.head,
            num_labels=len(self.labels),
            pooling=options.pooling,
            hidden=options.hidden,
            dropout=options.dropout,
        )

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return rows with their class."""
        from orchestrator.data.samples.labelled_samples import ClsSamples
        from orchestrator.data.samples.media_samples import MediaSamples, media_processor

        if self.template is not None:
            from orchestrator.data.samples.labelled_samples import TemplateSamples

            return TemplateSamples(
                rows, text_processor(processor), self.head, max_length, self.template
            )
        if rows.pictures is not None or rows.sounds is not None:
            return MediaSamples(rows, media_processor(processor, rows), self.head)
        return ClsSamples(rows, text_processor(processor), self.head, max_length)

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[ClassAnswer]:
        """Return the most probable class of each row; of equal ones, the first."""
        del readings
        probabilities = softmax(np.stack(outputs)) if len(outputs) else np.zeros((0, 1))
        best = probabilities.argmax(axis=1) if len(outputs) else []
        return [
            ClassAnswer(self.labels[label], float(row[label]), tuple(row.tolist()))
            for label, row in zip(best, probabilities, strict=True)
        ]

    def metrics(self) -> tuple[Metric, ...]:
        """Return accuracy, then the others, then precision, recall and F1 of each class."""
        return (
            share("accuracy"),
            SumMetric("macro_f1", macro_f1, order=_right),
            SumMetric("mcc", matthews, span=2.0, order=_right),
            WeightedMetric("auc", roc_auc, order=_probability_of_truth),
            SumMetric("ece", calibration_error, higher_is_better=False),
            *_per_class(self.labels),
        )

    def statistics(self, rows: "Rows", answers: Sequence[ClassAnswer]) -> dict[str, FloatArray]:
        """Return statistics per row of each metric."""
        truth = np.asarray(rows.labels, dtype=np.int64)
        scores = np.asarray([answer.scores for answer in answers])
        number = {label: index for index, label in enumerate(self.labels)}
        chosen = np.asarray([number[answer.label] for answer in answers], dtype=np.int64)
        counts = confusion(truth, chosen, len(self.labels))
        ones = np.ones((len(truth), 1))
        right = (chosen == truth).astype(np.float64)[:, None]
        found = {
            "accuracy": np.concatenate([right, ones], axis=1),
            "macro_f1": counts,
            "mcc": np.concatenate([ones, counts], axis=1),
            "auc": np.concatenate([truth[:, None], scores], axis=1),
            "ece": calibration_rows(scores, truth),
        }
        for index, label in enumerate(self.labels):
            of_class = counts[:, 3 * index : 3 * index + 3]
            found |= {f"{name}.{label}": of_class for name in ("precision", "recall", "f1")}
        return found


def _per_class(labels: Sequence[str]) -> list[Metric]:
    """Return precision, recall and F1 of each class.

    A row is better for a class when it is right about it: a hit counts 1, a miss or a false alarm
    -1, anything else 0.
    """
    measures = {"precision": precision, "recall": recall, "f1": f1}
    return [
        SumMetric(f"{name}.{label}", measure, order=_hit_or_miss)
        for label in labels
        for name, measure in measures.items()
    ]


def _hit_or_miss(rows: FloatArray) -> FloatArray:
    return np.asarray(2 * rows[:, 0] - np.maximum(rows[:, 1], rows[:, 2]))


def _right(rows: FloatArray) -> FloatArray:
    """Return whether each row is right, from statistics that end with 3 per class."""
    classes = rows[:, rows.shape[1] % 3 :].reshape(len(rows), -1, 3)
    return np.asarray(classes[..., 0].sum(axis=1))


def _probability_of_truth(rows: FloatArray) -> FloatArray:
    truth = rows[:, 0].astype(np.int64)
    return np.asarray(rows[np.arange(len(rows)), 1 + truth])
