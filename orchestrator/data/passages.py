"""Passages: runs of whole sentences of one document, as long as there is room for.

Every token of a corpus is in exactly one passage. Sentences longer than the room are cut into equal
pieces that count as sentences. Passages do not change with the epoch; what is done with them does.
"""

import numpy as np
import numpy.typing as npt

from orchestrator.data.blocks import Borders, TokenBlocks
from orchestrator.errors import InputError

IntArray = npt.NDArray[np.int64]


class Passages:
    """The passages of one split.

    Attributes:
        room: most tokens of a passage.
        documents: number of documents.
    """

    def __init__(self, blocks: TokenBlocks, room: int, longest: int | None = None) -> None:
        """Lay out the passages.

        Args:
            blocks: tokens with the borders of their sentences.
            room: most tokens of a passage.
            longest: most tokens of a sentence; None takes ``room``.

        Raises:
            InputError: the blocks come without borders.
        """
        if blocks.borders is None:
            raise InputError("these blocks have no sentence borders. Prepare the corpus again.")
        self.room = room
        self._blocks = blocks
        starts, lengths, first = _cut(blocks.borders, min(longest or room, room))
        self._starts, self._lengths = starts, lengths
        self._document = np.cumsum(first) - 1  # of each sentence
        self._heads = np.append(np.flatnonzero(first), len(starts))  # first sentence of each
        self.documents = len(self._heads) - 1
        self._first, self._stop = _pack(lengths, self._heads, room)

    def __len__(self) -> int:
        return len(self._first)

    def sentences(self, index: int) -> list[IntArray]:
        """Return the tokens of each sentence of a passage."""
        return self._read(int(self._first[index]), int(self._stop[index]))

    def tokens(self, index: int) -> IntArray:
        """Return the tokens of a passage."""
        return np.concatenate(self.sentences(index))

    def document(self, index: int) -> int:
        """Return the number of the document that a passage is from."""
        return int(self._document[self._first[index]])

    def excerpt(self, document: int, place: float, tokens: int) -> IntArray:
        """Return ``tokens`` tokens of a document, or all up to its end, from a sentence on.

        Args:
            document: number of the document.
            place: which of its sentences comes first, as a fraction of their number, below 1.
            tokens: number of tokens.
        """
        head, end = int(self._heads[document]), int(self._heads[document + 1])
        begin = head + int(place * (end - head))
        reach = begin + 1 + int(np.searchsorted(np.cumsum(self._lengths[begin:end]), tokens))
        return np.concatenate(self._read(begin, min(reach, end)))[:tokens]

    def parts(self, blocks_of_parts: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of passages of each source, given the number of its blocks."""
        ends = np.cumsum(blocks_of_parts) * self._blocks.block_size
        found = np.searchsorted(self._starts[self._first], ends)
        return tuple(np.diff(found, prepend=0).tolist())

    def _read(self, first: int, stop: int) -> list[IntArray]:
        begin = int(self._starts[first])
        end = int(self._starts[stop - 1] + self._lengths[stop - 1])
        tokens = self._blocks.span(begin, end)
        return np.split(tokens, self._starts[first + 1 : stop] - begin)


def _cut(borders: Borders, longest: int) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
    """Cut sentences into equal pieces of at most ``longest`` tokens."""
    pieces = -(-borders.lengths // longest)
    owner = np.repeat(np.arange(len(pieces)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = number * borders.lengths[owner] // pieces[owner]
    end = (number + 1) * borders.lengths[owner] // pieces[owner]
    return borders.starts[owner] + begin, end - begin, borders.first[owner] & (number == 0)


def _pack(lengths: IntArray, heads: IntArray, room: int) -> tuple[IntArray, IntArray]:
    """Return first sentence of each passage and the one after its last; all documents at once."""
    count = len(lengths)
    total = np.concatenate([[0], np.cumsum(lengths)])
    limit = np.repeat(heads[1:], np.diff(heads))
    reach = np.searchsorted(total, total[:-1] + room, side="right") - 1
    reach = np.clip(reach, np.arange(count) + 1, limit)
    found: list[IntArray] = []
    here = heads[:-1]
    while len(here):
        found.append(here)
        after = reach[here]
        here = after[after < limit[here]]
    first = np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    return first, reach[first]
