"""Similarity of two texts: a score, or that they belong together.

Rows are pairs with a score (``text_a``, ``text_b``, ``score``), pairs that belong together (no
score), or triplets (``anchor``, ``positive``, ``negative``).

Shapes: N rows.
"""

from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.rows.labels import FreeForm, Labels
from orchestrator.data.rows.rereading import Label
from orchestrator.data.rows.rows import Reader, Record, Rows, TableRow
from orchestrator.data.sources.contents import find_column, usable_text
from orchestrator.data.spec import DatasetSpec

NEGATIVE_COLUMNS = ("negative", "hard_negative")
TOGETHER = "1.0"
"""Label of two texts that belong together."""


class SimilarityForm(FreeForm):
    """A score per pair: float32 [N]; 1 where the texts belong together."""

    name = "similarity"
    what = ("score", "scores")
    text_columns = ("text_a", "sentence1", "anchor", "question1", "query", "question", "text")
    pair_columns = (
        "text_b",
        "sentence2",
        "positive",
        "question2",
        "document",
        "passage",
        "answer",
    )
    label_columns = ("score", "similarity_score", "similarity", "label", "is_duplicate")

    def reader(self, spec: DatasetSpec, row: TableRow, path: Path) -> Reader:
        """Return a reader of pairs or triplets.

        Raises:
            InputError: a column is missing.
        """
        first = self.require("text_column", spec.text_column, self.text_columns, row, path)
        second = self.require("pair_column", spec.pair_column, self.pair_columns, row, path)
        negative = find_column(None, NEGATIVE_COLUMNS, row, "negative", path)
        usual = () if negative is not None else self.label_columns
        score = find_column(spec.label_column, usual, row, "score", path)

        def read(row: TableRow, rejected: Counter[str]) -> Record | None:
            text = usable_text(row.get(first), rejected)
            pair = None if text is None else usable_text(row.get(second), rejected)
            label = (TOGETHER,) if score is None else self.label(row.get(score))
            if isinstance(label, str):
                rejected[label] += 1
                return None
            if text is None or pair is None:
                return None
            if negative is None:
                return Record(label, text, pair)
            wrong = usable_text(row.get(negative), rejected)
            return None if wrong is None else Record(label, text, pair, negative=wrong)

        return read

    def label(self, value: object) -> Label | str:
        """Take a number."""
        if value is None or value == "":
            return "label missing"
        try:
            number = float(str(value))
        except ValueError:
            return "label is not a number"
        return (repr(number),) if isfinite(number) else "label is not finite"

    def number(
        self, spec: DatasetSpec, split: str, labels: Sequence[Label], words: Sequence[str]
    ) -> Labels:
        """Return the score of each row."""
        del spec, split, words
        return self.stack([float(label[0]) for label in labels])

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return float32 [N]."""
        return np.asarray(labels, dtype=np.float32)

    def leak_keys(self, rows: Rows) -> list[str]:
        """Return the first texts: all pairs of one anchor are in the same split."""
        return [" ".join(text.split()) for text in rows.texts]
