"""Similarity: one vector per text, near to those of similar texts.

Rows are pairs with a score, or pairs that belong together. Scored pairs are measured by Spearman's
correlation of the cosine (STS benchmark; Reimers and Gurevych 2019). Of pairs that belong together,
each first text looks for its partner among all second texts of the split: NDCG@10 and mean
reciprocal rank (one relevant text each: Järvelin and Kekäläinen 2002, with gain 1).

The answer to a row is the vector of its text; of a pair, both vectors and their cosine.

Shapes: N rows, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import PositiveFloat

from orchestrator.arrays import AnyArray, FloatArray, IntArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.modeling.targets.answer_configs import SimilarityConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import DrawMetric, Metric, mean, spearman

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset
    from orchestrator.modeling.config import ModelConfig

TOP = 10
"""Ranks that NDCG counts."""


@dataclass(frozen=True, slots=True)
class VectorAnswer(Answer):
    """The vector of a text, of length 1; of a pair, of both texts.

    Attributes:
        vector: Of the text.
        pair: Of the second text; empty: there is none.
        cosine: Of the two; None: there is one text.
    """

    vector: tuple[float, ...]
    pair: tuple[float, ...] = ()
    cosine: float | None = None


class SimilarityTaskConfig(TaskConfig):
    """One vector per text."""

    type: Literal["similarity"] = "similarity"
    scored: bool = False
    """Whether pairs have scores; false: they belong together."""
    highest_score: PositiveFloat = 1.0
    """Score of texts that mean the same; the cosine learns scores divided by it."""


@tasks.add
class Similarity(Task[SimilarityTaskConfig, VectorAnswer]):
    """One vector per text, near to those of similar texts."""

    Config = SimilarityTaskConfig
    modalities = frozenset({"text", "pair"})
    has_labels = False
    pairs_apart = True
    target_types = ("similarity",)

    @classmethod
    def form(cls) -> LabelForm:
        """A score per pair, or none."""
        return FORMS["similarity"]

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return a head that pools; scored pairs learn the cosine, others find their partner."""
        loss: Literal["contrastive", "cosine"] = "cosine" if self.config.scored else "contrastive"
        return SimilarityConfig(name=self.head, pooling=options.pooling, loss=loss)

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return pairs, two sequences each."""
        from orchestrator.data.samples.task_samples import SimilarPairs

        return SimilarPairs(
            rows,
            text_processor(processor),
            self.head,
            max_length,
            highest_score=self.config.highest_score,
        )

    @classmethod
    def options_for(cls, rows: "Rows", model: "ModelConfig | None" = None) -> dict[str, object]:
        """Pairs are scored where one is not 1; scores above 1 are divided by the whole highest."""
        del model
        highest = float(np.max(rows.labels, initial=1.0))
        return {"scored": bool((rows.labels != 1).any()), "highest_score": float(np.ceil(highest))}

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[VectorAnswer]:
        """Normalize the vectors of each row: [D] of a text, [2, D] of a pair."""
        del readings
        return [_answer(np.atleast_2d(np.asarray(row, dtype=np.float64))) for row in outputs]

    def metrics(self) -> tuple[Metric, ...]:
        """Return Spearman's correlation, or NDCG@10 and the mean reciprocal rank."""
        if self.config.scored:
            return (DrawMetric("spearman", spearman, order=_agreement, span=2.0),)
        return mean("ndcg_10"), mean("mrr")

    def statistics(self, rows: "Rows", answers: Sequence[VectorAnswer]) -> dict[str, FloatArray]:
        """Return statistics per row of each metric."""
        if self.config.scored:
            cosines = np.asarray([answer.cosine for answer in answers], dtype=np.float64)
            truth = np.asarray(rows.labels, dtype=np.float64).reshape(-1)
            return {"spearman": np.stack([truth, cosines], axis=1)}
        first = np.asarray([answer.vector for answer in answers])
        second = np.asarray([answer.pair for answer in answers])
        ranks = partner_ranks(first, second)
        asked = (np.asarray(rows.labels) == 1).astype(np.float64)  # others only serve as wrong ones
        gain = np.where(ranks <= TOP, 1.0 / np.log2(ranks + 1.0), 0.0)
        return {
            "ndcg_10": np.stack([gain * asked, asked], axis=1),
            "mrr": np.stack([asked / ranks, asked], axis=1),
        }


def partner_ranks(first: FloatArray, second: FloatArray, rows_at_once: int = 1024) -> IntArray:
    """Return the rank, from 1, of each row's own second vector among all of them.

    Of equal cosines the own one comes last: a model that gives one vector to all texts finds
    nothing.
    """
    ranks = np.empty(len(first), dtype=np.int64)
    own = (first * second).sum(axis=1)
    for start in range(0, len(first), rows_at_once):
        part = slice(start, start + rows_at_once)
        cosines = first[part] @ second.T
        # Rounding of a matrix product must not decide between equal vectors.
        ranks[part] = (cosines >= own[part, None] - 1e-12).sum(axis=1)
    return np.maximum(ranks, 1)


def _answer(vectors: FloatArray) -> VectorAnswer:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(length, np.finfo(np.float64).tiny)
    if len(unit) == 1:
        return VectorAnswer(tuple(unit[0].tolist()))
    return VectorAnswer(tuple(unit[0].tolist()), tuple(unit[1].tolist()), float(unit[0] @ unit[1]))


def _agreement(rows: FloatArray) -> FloatArray:
    """Return how near the cosine is to the score, both brought to mean 0 and spread 1."""
    centered = rows - rows.mean(axis=0)
    scaled = centered / np.maximum(rows.std(axis=0), 1e-12)
    return np.asarray(-np.abs(scaled[:, 0] - scaled[:, 1]))
