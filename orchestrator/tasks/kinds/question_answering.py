"""Extractive question answering: the answer is a part of the context, or there is none.

Metrics are those of SQuAD's evaluation script: exact match and F1 over words, after lower-casing
and removing punctuation, articles and surplus blanks; the best of several given answers counts, and
for a question without an answer only the empty answer is right.

Decoding is that of BERT's ``run_squad`` (Devlin et al. 2019, sections 4.2 and 4.3): the span with
the largest sum of start and end logits, at most ``max_answer_tokens`` long, or no answer where the
logits of the first token together exceed it by more than ``null_threshold``. A context that is too
long is read in windows: the best span of all windows is the answer, and there is none where every
window says so.

Shapes: S tokens of question and context, of all windows.
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.data.spec import OVERLAP
from orchestrator.errors import Problem
from orchestrator.modeling.targets.answer_configs import SpanConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import Metric, mean, share
from orchestrator.tasks.numerics import softmax

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset
    from orchestrator.modeling.config import ModelConfig

CANDIDATES = 20
"""Best starts and best ends that are combined (``n_best_size`` of ``run_squad``)."""

ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class ExtractedAnswer(Answer):
    """A part of the context.

    Attributes:
        text: The characters; empty: there is no answer.
        start: First character in the context.
        end: Character after the last one.
        score: Probability of the start times that of the end, within their window.
    """

    text: str
    start: int
    end: int
    score: float


class QuestionAnsweringConfig(TaskConfig):
    """The part of a context that answers a question."""

    type: Literal["question_answering"] = "question_answering"
    max_answer_tokens: PositiveInt = 30
    """Longest answer in tokens."""
    unanswerable: bool = False
    """Whether a question may have no answer in its context."""
    null_threshold: float = 0.0
    """No answer is given where its logits exceed the best answer's by more than this."""
    overlap_tokens: NonNegativeInt = OVERLAP
    """Tokens that neighbouring windows of a long context share."""

    def problems(self) -> Iterator[Problem]:
        """A threshold of no answer belongs to questions that may have none."""
        if self.null_threshold and not self.unanswerable:
            yield Problem("null_threshold", "needs unanswerable: true. Set it, or leave this out.")


@tasks.add
class QuestionAnswering(Task[QuestionAnsweringConfig, ExtractedAnswer]):
    """The part of a context that answers a question."""

    Config = QuestionAnsweringConfig
    modalities = frozenset({"pair"})
    needs_reading = True
    reads_windows = True
    has_labels = False
    target_types = ("span",)

    @classmethod
    def form(cls) -> LabelForm:
        """Texts of the context and where they begin."""
        return FORMS["answers"]

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return a head with two outputs per token."""
        return SpanConfig(name=self.head, dropout=options.dropout)

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return questions and contexts with the places of the first answer."""
        from orchestrator.data.samples.task_samples import AnswerSamples

        overlap = self.config.overlap_tokens
        return AnswerSamples(
            rows, text_processor(processor), self.head, max_length, overlap=overlap
        )

    @classmethod
    def options_for(cls, rows: "Rows", model: "ModelConfig | None" = None) -> dict[str, object]:
        """Questions may have no answer where one of them has none."""
        del model
        return {"unanswerable": any(not answers for answers in rows.labels)}

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[ExtractedAnswer]:
        """Return the best span of each context, or none."""
        if readings is None:
            raise ValueError("extracted answers need a reading of each row")
        return [self._answer(*each) for each in zip(outputs, readings, strict=True)]

    def _answer(self, logits: AnyArray, reading: "Reading") -> ExtractedAnswer:
        """Return the best span of all windows, or none."""
        logits = np.asarray(logits, dtype=np.float64)
        borders = [*reading.windows, len(logits)]
        spans = [self._best(logits, reading, *window) for window in pairwise(borders)]
        found = [span for span in spans if span is not None]
        null = min(float(logits[start].sum()) for start in reading.windows)
        best = max(found, key=lambda span: span[0], default=None)
        excess = np.inf if best is None else null - best[0]
        if best is None or (self.config.unanswerable and excess > self.config.null_threshold):
            window = min(range(len(spans)), key=lambda i: float(logits[reading.windows[i]].sum()))
            sure = _probability(logits, reading, *borders[window : window + 2])
            return ExtractedAnswer("", 0, 0, float(sure[0].prod()))
        _, first, last, score = best
        start, end = int(reading.offsets[first, 0]), int(reading.offsets[last, 1])
        return ExtractedAnswer(reading.text[start:end], start, end, score)

    def _best(
        self, logits: FloatArray, reading: "Reading", begin: int, stop: int
    ) -> tuple[float, int, int, float] | None:
        """Return summed logits, first and last token, and probability of a window's best span."""
        inside = begin + np.flatnonzero(reading.words[begin:stop] >= 0)
        if len(inside) == 0:
            return None
        starts = inside[np.argsort(-logits[inside, 0], kind="stable")[:CANDIDATES]]
        ends = inside[np.argsort(-logits[inside, 1], kind="stable")[:CANDIDATES]]
        pairs = [
            (float(logits[start, 0] + logits[end, 1]), int(start), int(end))
            for start in starts
            for end in ends
            if start <= end < start + self.config.max_answer_tokens
        ]
        if not pairs:
            return None
        score, first, last = max(pairs, key=lambda pair: pair[0])
        sure = _probability(logits, reading, begin, stop)
        return score, first, last, float(sure[first - begin, 0] * sure[last - begin, 1])

    def metrics(self) -> tuple[Metric, ...]:
        """Return F1 and exact match."""
        return mean("f1"), share("exact_match")

    def statistics(self, rows: "Rows", answers: Sequence[ExtractedAnswer]) -> dict[str, FloatArray]:
        """Return statistics per row of each metric; of several true answers the best counts."""
        found = {"f1": np.ones((len(answers), 2)), "exact_match": np.ones((len(answers), 2))}
        for row, (truth, answer) in enumerate(zip(rows.labels, answers, strict=True)):
            texts = [text for text, _ in truth] or [""]
            found["f1"][row, 0] = max(word_f1(text, answer.text) for text in texts)
            found["exact_match"][row, 0] = max(
                normalized(text) == normalized(answer.text) for text in texts
            )
        return found


def _probability(logits: FloatArray, reading: "Reading", begin: int, stop: int) -> FloatArray:
    """Return the probability of each place of a window to be the first and the last, [S, 2].

    Places are those of the context and, for no answer, the first token.
    """
    place = reading.words[begin:stop] >= 0
    place[0] = True
    allowed = np.where(place[:, None], logits[begin:stop], -np.inf)
    return softmax(allowed.T).T


def normalized(text: str) -> str:
    """Return a text in lower case without punctuation, articles and surplus blanks (SQuAD)."""
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(ARTICLES.sub(" ", kept).split())


def word_f1(truth: str, answer: str) -> float:
    """Return the F1 of the words of two texts (SQuAD); if one is empty, whether both are."""
    actual, given = normalized(truth).split(), normalized(answer).split()
    if not actual or not given:
        return float(actual == given)
    common = sum((Counter(actual) & Counter(given)).values())
    return 2.0 * common / (len(actual) + len(given))
