"""Rows as a package reads them, in batches of similar length and in random parts.

The readers are those that answer requests, so that candidates, pairs that are read apart, windows
and prompts are sequences here as they are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from orchestrator.data.processors.example_processor import RowProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError
from orchestrator.inference.batching import pad
from orchestrator.inference.embedding_reader import EmbeddingReader
from orchestrator.inference.inputs import Encoded as Item
from orchestrator.inference.inputs import TextReader, items_of_rows
from orchestrator.inference.writing import media_batches
from orchestrator.quantization.measures import Encoded, Split, encode
from orchestrator.tasks.base import AnyTask, text_processor

if TYPE_CHECKING:
    from orchestrator.modeling.sentence.statement import SentenceEmbedding

LOOKS: Final = (0.25, 0.5)
"""Shares of the validation rows after which a plan may be given up."""
FEWEST_ROWS_OF_A_LOOK: Final = 32
"""Fewer rows exclude no bound."""


@dataclass(frozen=True)
class RowReader:
    """Reads rows as one package does.

    Attributes:
        processor: Its tokenizer, or its processors; None: it reads images as they are.
        task: Task of the rows; None: they are read for embeddings.
        statement: Its statement about embeddings.
        batch_size: Sequences per batch.
    """

    processor: RowProcessor | None
    task: AnyTask | None
    statement: "SentenceEmbedding | None"
    batch_size: int

    def split(self, rows: Rows, limit: int, *, count: int, seed: int, parts: bool = False) -> Split:
        """Read up to ``count`` rows, chosen by a seed.

        Args:
            rows: The rows of a split.
            limit: Longest sequence in tokens.
            count: Largest number of rows.
            seed: Of the choice.
            parts: Read them in random parts (`LOOKS`), not in their order.
        """
        chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
        if not parts:
            chosen = np.sort(chosen)
        sizes = [int(share * len(chosen)) for share in LOOKS] if parts else []
        cuts = [size for size in sizes if size >= FEWEST_ROWS_OF_A_LOOK]
        pieces = np.split(chosen, cuts)
        read = tuple(self.part(rows.take(np.sort(piece)), limit) for piece in pieces)
        return Split(rows.take(np.concatenate([np.sort(piece) for piece in pieces])), read)

    def part(self, rows: Rows, limit: int) -> Encoded:
        """Read all rows into batches of similar length.

        Raises:
            InputError: The package has no tokenizer, and the rows are texts.
        """
        if rows.images is not None or rows.media:
            return _media(rows, self.processor)
        words = text_processor(self.processor)
        if words is None:
            raise InputError("data: the rows are texts; the package reads images or sounds")
        items = self._items(rows, TextReader(words, limit))
        sequences = [sequence for item in items for sequence in item.sequences]
        order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
        batches = []
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            batches.append(pad([sequences[place] for place in places], words.settings.pad_id))
        return encode(batches, order, items)

    def _items(self, rows: Rows, reader: TextReader) -> Sequence[Item]:
        asked = items_of_rows(rows, self.task)
        if self.task is not None:
            return reader.encode(asked, self.task)
        return EmbeddingReader(reader, self.statement, reader.max_length).encode(asked)


def _media(rows: Rows, processor: RowProcessor | None) -> Encoded:
    """Return images in batches, and each recording alone: its padding would be observed."""
    if rows.sounds is not None:
        parts = (rows.take([row]) for row in range(len(rows)))
        alone = [arrays for part in parts for _, arrays in media_batches(part, processor)]
        return encode(alone, np.arange(len(rows)))
    made = list(media_batches(rows, processor))
    return encode([arrays for _, arrays in made], np.concatenate([places for places, _ in made]))
