"""Tagging: one tag per word (named entities, parts of speech).

Entities are counted as ``seqeval`` and ``conlleval`` count them by default: a span is right when
its type and both borders are. Where no tag begins with ``B-`` or ``I-`` there are no spans, and
accuracy per word is the primary metric.

An answer has spans with character offsets, as transformers' token-classification pipeline gives
them with ``aggregation_strategy="first"``: a word has the tag of its first token.

Shapes: N rows, S tokens, W words, K tags.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.token_configs import TagsConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import Metric, SumMetric, f1, mean, precision, recall
from orchestrator.tasks.numerics import softmax

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset

OUTSIDE = "O"
"""The tag of a word that belongs to nothing; it makes no span."""

Entity = tuple[str, int, int]
"""Type, first word, last word."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the text.

    Attributes:
        label: Its type: the tag without ``B-`` or ``I-``.
        start: First character.
        end: Character after the last one.
        text: The characters.
        score: Mean probability of its words' tags.
    """

    label: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class TagsAnswer(Answer):
    """The spans of a text, and the tag of every word that was read.

    Attributes:
        spans: In order of their place.
        tags: Tag of each word; words beyond the model's limit have none.
    """

    spans: tuple[Span, ...]
    tags: tuple[str, ...]


class TagsTaskConfig(TaskConfig):
    """One tag per word."""

    type: Literal["tags"] = "tags"


@tasks.add
class Tags(Task[TagsTaskConfig, TagsAnswer]):
    """One tag per word."""

    Config = TagsTaskConfig
    modalities = frozenset({"text"})
    needs_reading = True
    target_types = ("tags",)

    @classmethod
    def form(cls) -> LabelForm:
        """A tag per word."""
        return FORMS["tags"]

    @property
    def has_spans(self) -> bool:
        """Whether tags mark spans: one of them begins with ``B-`` or ``I-``."""
        return any(label[:2] in ("B-", "I-") for label in self.labels)

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return a head with one output per tag at each token."""
        return TagsConfig(name=self.head, num_labels=len(self.labels), dropout=options.dropout)

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return texts with the tag of each word at its first token."""
        from orchestrator.data.samples.labelled_samples import TagSamples

        return TagSamples(rows, text_processor(processor), self.head, max_length=max_length)

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[TagsAnswer]:
        """Return the spans and tags of each row."""
        if readings is None:
            raise ValueError("tags are answered with a reading of each row")
        return [self._answer(*each) for each in zip(outputs, readings, strict=True)]

    def _answer(self, logits: AnyArray, reading: "Reading") -> TagsAnswer:
        """Tag each word by its first token, and merge words into spans."""
        count = int(reading.words.max(initial=-1)) + 1
        places = [np.flatnonzero(reading.words == word) for word in range(count)]
        probabilities = softmax(logits) if len(logits) else np.zeros((0, len(self.labels)))
        firsts = probabilities[[place[0] for place in places]] if places else probabilities
        best = firsts.argmax(axis=1) if places else []
        tags = [self.labels[label] for label in best]
        borders = [
            (int(reading.offsets[place[0], 0]), int(reading.offsets[place[-1], 1]))
            for place in places
        ]
        spans = []
        for label, first, last in entities(tags):
            start, end = borders[first][0], borders[last][1]
            score = float(firsts[range(first, last + 1), best[first : last + 1]].mean())
            spans.append(Span(label, start, end, reading.text[start:end], score))
        return TagsAnswer(tuple(spans), tuple(tags))

    def metrics(self) -> tuple[Metric, ...]:
        """Return span F1 with precision and recall, per type too, and accuracy per word."""
        accuracy = mean("token_accuracy")
        if not self.has_spans:
            return (accuracy,)
        measures = {"precision": precision, "recall": recall, "f1": f1}
        return (
            SumMetric("span_f1", f1),
            SumMetric("span_precision", precision, order=f1),
            SumMetric("span_recall", recall, order=f1),
            accuracy,
            *(
                SumMetric(f"{name}.{label}", measure, order=f1)
                for label in self._types
                for name, measure in measures.items()
            ),
        )

    @property
    def _types(self) -> list[str]:
        return sorted({split_tag(label)[1] for label in self.labels} - {OUTSIDE})

    def statistics(self, rows: "Rows", answers: Sequence[TagsAnswer]) -> dict[str, FloatArray]:
        """Return statistics per row of each metric; a word without an answer is wrong."""
        actual = [[self.labels[tag] for tag in row] for row in rows.labels]
        words = [
            (sum(a == b for a, b in zip(truth, answer.tags, strict=False)), len(truth))
            for truth, answer in zip(actual, answers, strict=True)
        ]
        found = {"token_accuracy": np.asarray(words, dtype=np.float64)}
        if not self.has_spans:
            return found
        pairs = [
            (set(entities(answer.tags)), set(entities(truth)))
            for answer, truth in zip(answers, actual, strict=True)
        ]
        total = _counts(pairs, None)
        found |= {name: total for name in ("span_f1", "span_precision", "span_recall")}
        for label in self._types:
            of_type = _counts(pairs, label)
            found |= {f"{name}.{label}": of_type for name in ("precision", "recall", "f1")}
        return found


def split_tag(tag: str) -> tuple[str, str]:
    """Return prefix and type of a tag; a tag without a prefix continues its own type."""
    prefix, dash, label = tag.partition("-")
    if dash and prefix in ("B", "I", "E", "S"):
        return prefix, label
    return ("O", OUTSIDE) if tag == OUTSIDE else ("I", tag)


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the spans of a tag sequence, as ``conlleval`` reads IOB1, IOB2 and IOBES.

    A span begins at ``B-`` or ``S-``, after the end of another one, and where the type changes.
    """
    found: list[Entity] = []
    start, kind, before = -1, "", "O"
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = split_tag(tag)
        inside = start >= 0
        ends = prefix in ("O", "B", "S") or before in ("E", "S") or label != kind
        if inside and ends:
            found.append((kind, start, place - 1))
            start = -1
        if prefix != "O" and start < 0:
            start, kind = place, label
        before = prefix
    return found


def _counts(pairs: Sequence[tuple[set[Entity], set[Entity]]], label: str | None) -> FloatArray:
    """Return right, predicted and actual spans of each row, of one type or all, [N, 3]."""

    def number(spans: set[Entity]) -> int:
        return len(spans) if label is None else Counter(span[0] for span in spans)[label]

    rows = [(number(given & there), number(given), number(there)) for given, there in pairs]
    return np.asarray(rows, dtype=np.float64)
