"""Passages: runs of whole sentences of one document, as long as a block allows.

Every token of a corpus is in exactly one passage. Sentences longer than the room are cut into equal
pieces that count as sentences. Passages do not change with the epoch; what is done with them does.

A passage ends where the next sentence does not fit or another document begins. So the layout after
the beginning of any passage does not depend on earlier ones, and only every ``MARKED``-th beginning
is stored: 24 bytes. A passage is found by laying out passages from the last mark on; the sentences
stay on disk.

Shapes: P pieces of sentences, R rows of the table of borders, M marks.

A sentence ends with ``. ! ? …`` (and closing quotes or brackets) before white space, with the full
stops of Chinese and Japanese wherever they stand, and at a blank line. That is a rule for any
language with such marks, not a model: abbreviations end sentences too. Corpora with one sentence
per line set ``sentences: lines``.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from orchestrator.arrays import BoolArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.corpora.border_table import Borders
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


MARKED = 16  # passages from one mark to the next
ROWS_AT_ONCE = 1 << 14  # laid out together when all are counted


class Passages:
    """The passages of one split. ``len()`` is their number.

    Attributes:
        room: Most tokens of a passage.
        documents: Number of documents.
        parts: Number of passages of each source of the blocks.
    """

    def __init__(self, blocks: TokenBlocks, room: int, longest: int | None = None) -> None:
        """Count the passages and mark some.

        Args:
            blocks: Tokens with the borders of their sentences.
            room: Most tokens of a passage.
            longest: Most tokens of a sentence; None takes ``room``.

        Raises:
            InputError: The blocks come without borders.
        """
        if blocks.borders is None:
            raise InputError("these blocks have no sentence borders. Prepare the corpus again.")
        self.room = room
        self._blocks, self._borders = blocks, blocks.borders
        self._longest = min(longest or room, room)
        self._count, self._marks, self.parts = self._survey()
        self.documents = int(self._marks[2, -1])
        self._opened = lru_cache(maxsize=1)(self._open)  # asked for several things in a row

    def __len__(self) -> int:
        return self._count

    def sentences(self, index: int) -> list[IntArray]:
        """Return the tokens of each sentence of a passage."""
        run, first, stop = self._find(index)
        begin = int(run.starts[first])
        tokens = self._blocks.span(begin, int(run.starts[stop - 1] + run.lengths[stop - 1]))
        inside = (run.starts[first + 1 : stop] - begin).tolist()
        return [tokens[a:b] for a, b in pairwise([0, *inside, len(tokens)])]

    def tokens(self, index: int) -> IntArray:
        """Return the tokens of a passage."""
        return np.concatenate(self.sentences(index))

    def document(self, index: int) -> int:
        """Return the number of the document that a passage is from."""
        run, first, _ = self._find(index)
        begun = np.count_nonzero(run.heads[: int(run.rows[first]) + 1])
        return int(self._marks[2, index // MARKED]) + int(begun) - 1

    def excerpt(self, document: int, place: float, tokens: int) -> IntArray:
        """Return ``tokens`` tokens of a document, or all up to its end, from a sentence on.

        Args:
            document: Number of the document.
            place: Which of its sentences comes first, as a fraction of their number, below 1.
            tokens: Number of tokens.
        """
        borders = self._borders.rows(self._head(document), self._head(document + 1))
        pieces = -(-borders.lengths // self._longest)
        after = np.cumsum(pieces)
        piece = int(place * int(after[-1]))
        row = int(after.searchsorted(piece, side="right"))
        number = piece - int(after[row] - pieces[row])
        begin = int(borders.starts[row] + number * borders.lengths[row] // pieces[row])
        end = int(borders.starts[-1] + borders.lengths[-1])
        return self._blocks.span(begin, min(begin + tokens, end))

    def _survey(self) -> tuple[int, IntArray, tuple[int, ...]]:
        """Lay out all passages, some at a time.

        Returns:
            Their number; of each marked one, and of the end, the row that it begins in, which piece
            of that sentence it begins with, and how many documents begin before the row, int64
            [3, M]; and the number of passages of each source.
        """
        ends = np.cumsum(self._blocks.parts) * self._blocks.block_size
        before = np.zeros(len(ends), dtype=np.int64)  # passages before the end of each source
        rows, count = len(self._borders), 0
        place = np.zeros((3, 1), dtype=np.int64)
        marks = []
        while (row := int(place[0, 0])) < rows:
            stop = min(row + ROWS_AT_ONCE + self.room, rows)
            run = self._run(row, int(place[1, 0]), stop)
            bounds = np.asarray(run.bounds)
            if stop < rows:
                bounds = bounds[:-1]  # the last one may go on behind the rows that were read
            begins = bounds[:-1]
            chosen = np.append(begins[-count % MARKED :: MARKED], bounds[-1])
            rows_of, numbers = np.append(run.rows, len(run.heads)), np.append(run.numbers, 0)
            documents = np.concatenate([[0], np.cumsum(run.heads)])[rows_of[chosen]]
            found = np.stack([rows_of[chosen], numbers[chosen], documents])
            found += [[row], [0], place[2]]
            marks.append(found[:, :-1])
            place = found[:, -1:]
            before += run.starts[begins].searchsorted(ends)
            count += len(begins)
        parts = tuple(np.diff(before, prepend=0).tolist())
        return count, np.concatenate([*marks, place], axis=1), parts

    def _find(self, index: int) -> tuple["_Run", int, int]:
        """Return the run that contains a passage, its first piece, and the one after its last."""
        mark, number = divmod(index, MARKED)
        run = self._opened(mark)
        return run, run.bounds[number], run.bounds[number + 1]

    def _open(self, mark: int) -> "_Run":
        """Lay out the passages from a mark to the next."""
        row, piece, _ = self._marks[:, mark].tolist()
        return self._run(row, piece, min(int(self._marks[0, mark + 1]) + 1, len(self._borders)))

    def _run(self, row: int, piece: int, stop: int) -> "_Run":
        return _lay_out(self._borders.rows(row, stop), piece, self.room, self._longest)

    def _head(self, document: int) -> int:
        """Return the row that a document begins with, or the number of rows after the last."""
        if document == self.documents:
            return len(self._borders)
        mark = int(self._marks[2].searchsorted(document, side="right")) - 1
        row, _, before = self._marks[:, mark].tolist()
        first = self._borders.rows(row, int(self._marks[0, mark + 1])).first
        return int(row + np.flatnonzero(first)[document - before])


class _Run(NamedTuple):
    """Passages that follow one another.

    Attributes:
        starts: Position in the stream of each piece, int64 [P].
        lengths: Number of its tokens, int64 [P].
        rows: Row of its sentence, counted from the first, int64 [P].
        numbers: Which piece of its sentence it is, int64 [P].
        heads: Whether a document begins with each row, bool [R].
        bounds: First piece of each passage; last, the number of pieces.
    """

    starts: IntArray
    lengths: IntArray
    rows: IntArray
    numbers: IntArray
    heads: BoolArray
    bounds: list[int]


def _lay_out(borders: Borders, skipped: int, room: int, longest: int) -> _Run:
    """Pack sentences into passages; the first passage begins after ``skipped`` pieces."""
    starts, lengths, rows, numbers = _cut(borders, skipped, longest)
    # documents so far apart that no passage reaches from one into the next
    places = borders.first.cumsum()[rows] * room + starts
    after = (places + lengths).searchsorted(places + room, side="right").tolist()
    bounds = [0]
    while bounds[-1] < len(after):
        bounds.append(after[bounds[-1]])
    return _Run(starts, lengths, rows, numbers, borders.first, bounds)


def _cut(
    borders: Borders, skipped: int, longest: int
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Cut sentences into equal pieces; return the first four arrays of `_Run`."""
    starts, lengths = borders.starts, borders.lengths
    rows = np.arange(len(starts))
    if lengths.max() <= longest:
        return starts, lengths, rows, np.zeros(len(rows), dtype=np.int64)
    pieces = -(-lengths // longest)
    rows = np.repeat(rows, pieces)[skipped:]
    numbers = np.arange(skipped, skipped + len(rows)) - (np.cumsum(pieces) - pieces)[rows]
    lengths, pieces = lengths[rows], pieces[rows]
    begins = numbers * lengths // pieces
    return starts[rows] + begins, (numbers + 1) * lengths // pieces - begins, rows, numbers


SentenceRule = Literal["punctuation", "lines"]

_CLOSING = r"[\"'”’»)\]}]*"
_PUNCTUATION = re.compile(rf"[.!?…]+{_CLOSING}\s+|[。！？｡]+[」』”’）]*\s*|\n\s*\n\s*")
_LINES = re.compile(r"\s*\n\s*")


def sentence_starts(text: str, rule: SentenceRule = "punctuation") -> list[int]:
    """Return where each sentence of a text begins, in characters; the first is 0."""
    pattern = _LINES if rule == "lines" else _PUNCTUATION
    return [0, *(found.end() for found in pattern.finditer(text) if found.end() < len(text))]


def encode_sentences(
    tokenizer: "Tokenizer", texts: Sequence[str], rule: SentenceRule
) -> Iterator[tuple[list[int], IntArray]]:
    """Tokenize whole texts and return the lengths of their sentences.

    Texts are not cut before they are tokenized, so the ids are those of the text as it is. A token
    belongs to the sentence of its last character.

    Yields:
        Ids without special tokens, and the number of tokens of each sentence (none is empty).
    """
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    for text, encoding in zip(texts, encodings, strict=True):
        ids = list(encoding.ids)
        yield ids, _lengths(encoding.offsets, sentence_starts(text, rule))


def _lengths(offsets: Sequence[tuple[int, int]], starts: list[int]) -> IntArray:
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    span = np.asarray(offsets, dtype=np.int64)
    last = np.maximum(span[:, 0], span[:, 1] - 1)
    owner = np.maximum.accumulate(np.searchsorted(starts, last, side="right") - 1)
    counts = np.bincount(owner, minlength=len(starts))
    return counts[counts > 0].astype(np.int64)
