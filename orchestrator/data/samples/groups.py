"""Rows of several sequences: tokenized texts by number, taken into a batch in any order.

Shapes: M texts, B sequences of a batch, S length.
"""

from collections.abc import Sequence

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.processors.text import TextProcessor

ABSENT = -1
"""Number of a sequence without real tokens, which heads leave out."""


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
