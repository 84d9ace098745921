"""Generation: a prompt and the text that should follow, of causal and encoder-decoder models.

Metrics: ROUGE-L over words (Lin 2004, F-measure of the longest common subsequence), chrF (Popović
2015: character n-grams up to 6, beta 2, as sacrebleu counts it), and exact match after stripping
blanks at both ends. Loss per token is measured by training itself.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.errors import InputError, Problem
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import Metric, SumMetric, mean, share

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset
    from orchestrator.modeling.config import ModelConfig

ORDERS = 6
"""Longest character n-grams of chrF."""

WORD = re.compile(r"[^\W_]+")
"""Words of ROUGE-L: those of rouge_score in English, and letters of any script."""

BETA = 2.0
"""Weight of recall against precision in chrF."""


@dataclass(frozen=True, slots=True)
class TextAnswer(Answer):
    """A text that the model wrote."""

    text: str


class GenerationTaskConfig(TaskConfig):
    """The text that follows a prompt."""

    type: Literal["generation"] = "generation"
    max_new_tokens: PositiveInt = 64
    """Longest answer in tokens."""
    decoder: bool = False
    """Whether a decoder writes the answer (T5, BART); false: it continues the prompt (GPT)."""
    start_token_id: NonNegativeInt | None = None
    """First token that a decoder reads; null: the padding token (T5), BART: the end token."""

    def problems(self) -> Iterator[Problem]:
        """A start token belongs to a decoder."""
        if self.start_token_id is not None and not self.decoder:
            yield Problem("start_token_id", "is for a decoder. Leave it out.")


@tasks.add
class Generation(Task[GenerationTaskConfig, TextAnswer]):
    """The text that follows a prompt."""

    Config = GenerationTaskConfig
    modalities = frozenset({"text"})
    has_labels = False
    writes_text = True
    target_types = ("lm",)

    @classmethod
    def form(cls) -> LabelForm:
        """The text that should follow."""
        return FORMS["text"]

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return the package's own head: it is tied to the words that the model knows.

        Raises:
            InputError: The task was made without the config of a model.
        """
        return self.require_own_head()

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return prompts and answers; only tokens of the answer are labels."""
        from orchestrator.data.samples.prompts import PromptSamples

        return PromptSamples(
            rows,
            text_processor(processor),
            self.head,
            max_length,
            decoder=self.config.decoder,
            start_token_id=self.config.start_token_id,
        )

    @classmethod
    def options_for(cls, rows: "Rows", model: "ModelConfig | None" = None) -> dict[str, object]:
        """A model with a decoder writes with it."""
        del rows
        return {"decoder": model is not None and model.decoder is not None}

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[TextAnswer]:
        """Refuse logits: text is written token by token, by ``Predictor``.

        Raises:
            InputError: Always.
        """
        raise InputError("texts are written token by token; use Predictor.answers")

    def written(self, texts: Sequence[str]) -> list[TextAnswer]:
        """Return written texts as answers."""
        return [TextAnswer(text) for text in texts]

    def metrics(self) -> tuple[Metric, ...]:
        """Return ROUGE-L, chrF and exact match."""
        return mean("rouge_l"), SumMetric("chrf", chrf), share("exact_match")

    def statistics(self, rows: "Rows", answers: Sequence[TextAnswer]) -> dict[str, FloatArray]:
        """Return statistics per row of each metric."""
        pairs = [
            (str(truth), answer.text) for truth, answer in zip(rows.labels, answers, strict=True)
        ]
        ones = np.ones(len(pairs))
        same = [float(truth.strip() == given.strip()) for truth, given in pairs]
        return {
            "rouge_l": np.stack([[rouge_l(*pair) for pair in pairs], ones], axis=1),
            "chrf": np.stack([ngram_counts(*pair) for pair in pairs]),
            "exact_match": np.stack([same, ones], axis=1),
        }


def rouge_l(truth: str, answer: str) -> float:
    """Return the F-measure of the longest common subsequence of words (Lin 2004, section 3)."""
    actual, given = WORD.findall(truth.lower()), WORD.findall(answer.lower())
    if not actual or not given:
        return 0.0
    row = [0] * (len(given) + 1)
    for word in actual:
        before = 0
        for place, other in enumerate(given, 1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    common = row[-1]
    return 2.0 * common / (len(actual) + len(given))


def ngram_counts(truth: str, answer: str) -> FloatArray:
    """Return per order how many n-grams of characters are common, given and actual, [3 ORDERS]."""
    actual, given = "".join(truth.split()), "".join(answer.split())
    found = []
    for order in range(1, ORDERS + 1):
        a = Counter(actual[i : i + order] for i in range(len(actual) - order + 1))
        b = Counter(given[i : i + order] for i in range(len(given) - order + 1))
        # As sacrebleu: n-grams of an order that the truth is too short for do not count.
        found += [sum((a & b).values()), sum(b.values()) if a else 0, sum(a.values())]
    return np.asarray(found, dtype=np.float64)


def chrf(sums: FloatArray) -> FloatArray:
    """Return chrF in [0, 1] from summed n-gram counts, [..., 3 ORDERS] → [...].

    Precision and recall are averaged over the orders that both texts have (sacrebleu's effective
    order), then combined with weight BETA.
    """
    orders = sums.reshape(*sums.shape[:-1], ORDERS, 3)
    common, given, actual = (orders[..., i] for i in range(3))
    there = (given > 0) & (actual > 0)
    count = np.maximum(there.sum(-1), 1)
    precision = np.where(there, common / np.maximum(given, 1), 0.0).sum(-1) / count
    recall = np.where(there, common / np.maximum(actual, 1), 0.0).sum(-1) / count
    weighted = BETA**2 * precision + recall
    return np.where(
        weighted > 0, (1 + BETA**2) * precision * recall / np.maximum(weighted, 1e-300), 0.0
    )
