"""Samples of tasks with several sequences per row: questions, multiple choice, similar texts.

Questions: each window of a long context is a sample, as in BERT's ``run_squad`` (Devlin et al.
2019, section 4.2). A window that does not have the whole answer points at its first token, as a
question without an answer does: so the logits of the right window exceed those of the others.

Multiple choice: a batch has C sequences per row, C the largest number of choices in it; a row with
fewer is filled up with sequences without real tokens, which the head leaves out. The logits of a
row therefore do not depend on the batch it is in.

Similar texts: sequences 2 p and 2 p + 1 are pair p. Negatives of triplets follow behind all pairs,
two in a pair of label 0, the last one beside a sequence without real tokens where their number is
odd.

Shapes: B rows or pairs of a batch, S length, M windows or texts of all rows, C choices, P pairs
with those of negatives.
"""

from collections.abc import Sequence

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.processors.readings import place_of, read_windows
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, require_pairs
from orchestrator.data.samples.base import Batch
from orchestrator.data.spec import OVERLAP
from orchestrator.errors import InputError

NOWHERE = (0, 0)
"""Place that a window without the answer points to."""

ABSENT = -1
"""Number of a sequence without real tokens, which heads leave out."""


class AnswerSamples:
    """Windows, tokenized once: ``labels.<name>`` [B, 2], places of the first and last token."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str,
        max_length: int | None = None,
        *,
        overlap: int = OVERLAP,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: questions in ``texts``, contexts in ``pairs``, answers in ``labels``; of several
                answers the first is learned.
            processor: tokenizer.
            target_name: target that is trained.
            max_length: limit of a window in tokens; None takes the processor's.
            overlap: tokens that neighboring windows share.

        Raises:
            InputError: there are no rows, no contexts or no tokenizer.
        """
        require_pairs(rows)
        if processor is None or not len(rows):
            raise InputError("questions need rows and a tokenizer.")
        found = read_windows(processor, rows.texts, rows.pairs or [], max_length, overlap)
        self._arrays = processor.stack([w for windows in found for w, _ in windows], "right")
        self.lengths = self._arrays["attention_mask"].sum(axis=1)
        places = [
            None if not answers else place_of(reading, start, start + len(text))
            for answers, windows in zip(rows.labels, found, strict=True)
            for text, start in (answers[:1] or (("", 0),))
            for _, reading in windows
        ]
        self._places = np.asarray([place or NOWHERE for place in places], dtype=np.int64)
        self._name, self.parts = f"labels.{target_name}", (len(places),)

    def __len__(self) -> int:
        return len(self._places)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest window."""
        del epoch
        longest = int(self.lengths[indices].max())
        cut = {name: array[indices, :longest] for name, array in self._arrays.items()}
        cut[self._name] = self._places[indices]
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in cut.items()}


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


class TextTable:
    """Tokenized texts [M, S]."""

    def __init__(
        self,
        processor: TextProcessor,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        max_length: int | None,
    ) -> None:
        self._arrays = processor.arrays(texts, pairs, max_length, "right")
        self._lengths = self._arrays["attention_mask"].sum(axis=1)
        self._pad = processor.settings.pad_id

    def take(self, numbers: IntArray) -> dict[str, IntArray]:
        """Return the inputs of a batch [B, S], cut to its longest text; ``ABSENT`` is padding."""
        longest = int(self._lengths[numbers].max())
        absent = numbers == ABSENT
        found = {name: array[numbers, :longest].copy() for name, array in self._arrays.items()}
        for name, array in found.items():
            array[absent] = self._pad if name == "input_ids" else 0
        return found


def by_row(counts: Sequence[int]) -> list[IntArray]:
    """Return the numbers of the sequences of each row, which follow one another."""
    ends = np.cumsum(counts)
    return [np.arange(end - count, end) for count, end in zip(counts, ends, strict=True)]
