"""Pairs of similar texts, two sequences each, and texts that only serve as wrong answers.

Sequences 2 p and 2 p + 1 are pair p. Negatives of triplets follow behind all pairs, two in a pair
of label 0, the last one beside a sequence without real tokens where their number is odd.

Shapes: B pairs of a batch, P pairs with those of negatives, S length.
"""

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, require_pairs
from orchestrator.data.samples.base import Batch
from orchestrator.data.samples.groups import ABSENT, TextTable
from orchestrator.errors import InputError


class SimilarPairs:
    """Pairs or triplets, tokenized once: inputs [2 P, S] and ``labels.<name>`` float32 [P]."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str,
        max_length: int | None = None,
        *,
        highest_score: float = 1.0,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: texts, second texts, negatives where they have them, and scores in ``labels``.
            processor: tokenizer.
            target_name: target that is trained.
            max_length: limit of a text in tokens; None takes the processor's.
            highest_score: score of texts that mean the same; labels are divided by it.

        Raises:
            InputError: there are no rows, no second texts or no tokenizer.
        """
        require_pairs(rows)
        if processor is None or not len(rows):
            raise InputError("pairs of texts need rows and a tokenizer.")
        negatives = rows.negatives or []
        texts = [*rows.texts, *(rows.pairs or []), *negatives]
        self._table = TextTable(processor, texts, None, max_length)
        self._size, self._has_negatives = len(rows), bool(negatives)
        self._labels = np.asarray(rows.labels, dtype=np.float32).reshape(-1) / highest_score
        self._name, self.parts = f"labels.{target_name}", (len(rows),)

    def __len__(self) -> int:
        return self._size

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest text."""
        del epoch
        numbers = np.stack([indices, indices + self._size], axis=1).ravel()
        labels = self._labels[indices]
        if self._has_negatives:
            odd = [ABSENT] if len(indices) % 2 else []
            numbers = np.concatenate([numbers, indices + 2 * self._size, odd]).astype(np.int64)
            labels = np.concatenate([labels, np.zeros((len(indices) + 1) // 2, dtype=np.float32)])
        arrays = {
            name: torch.from_numpy(array) for name, array in self._table.take(numbers).items()
        }
        return arrays | {self._name: torch.from_numpy(labels.astype(np.float32))}
