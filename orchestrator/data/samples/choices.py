"""Multiple choice: each candidate with its question in a sequence of its own.

A batch has C sequences per row, C the largest number of choices in it; a row with fewer is filled
up with sequences without real tokens, which the head leaves out. The logits of a row therefore do
not depend on the batch it is in.

Shapes: B rows of a batch, C choices, S length.
"""

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import Batch
from orchestrator.data.samples.groups import ABSENT, TextTable, by_row
from orchestrator.errors import InputError


class ChoiceSamples:
    """Rows with choices, tokenized once: inputs [B C, S] and ``labels.<name>`` [B]."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str,
        max_length: int | None = None,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: contexts or questions in ``texts``, questions about contexts in ``pairs``,
                candidates in ``choices``.
            processor: tokenizer.
            target_name: target that is trained.
            max_length: limit of a sequence in tokens; None takes the processor's.

        Raises:
            InputError: there are no rows, no choices or no tokenizer.
        """
        if processor is None or not len(rows) or rows.choices is None:
            raise InputError("multiple choice needs rows with choices and a tokenizer.")
        pairs = [
            (text, candidate)
            for index, text in enumerate(rows.texts)
            for candidate in candidates(rows, index)
        ]
        first, second = zip(*pairs, strict=True)
        self._table = TextTable(processor, first, second, max_length)
        self._sequences = by_row([len(choices) for choices in rows.choices])
        self._labels = np.asarray(rows.labels, dtype=np.int64)
        self._name, self.parts = f"labels.{target_name}", (len(rows),)

    def __len__(self) -> int:
        return len(self._labels)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest sequence."""
        del epoch
        rows = [self._sequences[index] for index in indices]
        numbers = np.full((len(rows), max(map(len, rows))), ABSENT)
        for row, sequences in zip(numbers, rows, strict=True):
            row[: len(sequences)] = sequences
        arrays = self._table.take(numbers.ravel())
        arrays[self._name] = self._labels[indices]
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def candidates(rows: Rows, index: int) -> list[str]:
    """Return the second texts of a row's sequences: its choices, behind its question if any."""
    choices = list((rows.choices or [])[index])
    if rows.pairs is None:
        return choices
    return [f"{rows.pairs[index]} {choice}" for choice in choices]
