"""Packed token blocks on disk: documents end to end, cut into blocks, read through a memory map.

A document is framed as its tokenizer frames a text (``[CLS] tokens [SEP]``, see
``processors.roles``) and documents follow one another without a gap; only the last block of a file
is padded, so no token is lost. The special tokens never come from text, therefore they mark the
document boundaries and the padding, and nothing else has to be stored. The writer of a split also
stores the borders of its documents and sentences beside the blocks.

Shapes: B batch, S block size, V vocabulary.
"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.border_table import BORDERS, BorderTable, borders_path
from orchestrator.data.processors.roles import OURS, Roles
from orchestrator.errors import IntegrityError

TOKENS_PER_BATCH = 1 << 20  # written at once
COUNTED_TOKENS = 1 << 26  # a larger sample does not improve the frequencies
COUNTED_BLOCKS = 1024  # read at once
COLUMN = "input_ids"
ROWS_PER_BATCH = 1 << 14
OUTSIDE = -1  # what stands before the first and after the last block


class BlockWriter:
    """Frame documents, pack them and write an Arrow file.

    Attributes:
        documents: Number of documents added.
        tokens: Number of tokens written, frames included, padding not.
        position: Length of the stream so far, padding included.
    """

    def __init__(self, path: Path, block_size: int, vocab_size: int, roles: Roles) -> None:
        self.documents = 0
        self.tokens = 0
        self.position = 0
        self._block_size = block_size
        self._opening, self._closing = roles.opening, roles.closing
        self._filler = roles.filler
        token = pa.uint16() if vocab_size <= 1 << 16 else pa.int32()
        self._dtype = token.to_pandas_dtype()
        self._type = pa.list_(token, block_size)
        self._pending: list[IntArray] = []
        self._waiting = 0  # tokens of them
        self._schema = pa.schema([pa.field(COLUMN, self._type)])
        self._writer = pa.ipc.new_file(str(path), self._schema)

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.fill()
            if self._waiting:
                self._write()
        self._writer.close()

    def fill(self) -> int:
        """Pad the block that was begun, so that the next document begins one.

        Returns:
            The number of blocks so far.
        """
        missing = -self.position % self._block_size
        self._append([self._filler] * missing)
        return self.position // self._block_size

    def add(self, ids: list[int]) -> int:
        """Append one document, given without special tokens.

        Returns:
            The position of its first token in the stream.
        """
        begin = self.position + len(self._opening)
        framed = [*self._opening, *ids, *self._closing]
        self._append(framed)
        self.documents += 1
        self.tokens += len(framed)
        if self._waiting >= max(TOKENS_PER_BATCH, self._block_size):
            self._write()
        return begin

    def _append(self, ids: list[int]) -> None:
        self._pending.append(np.asarray(ids, dtype=self._dtype))
        self._waiting += len(ids)
        self.position += len(ids)

    def _write(self) -> None:
        """Write all full blocks."""
        tokens = np.concatenate(self._pending)
        whole = len(tokens) // self._block_size * self._block_size
        column = pa.FixedSizeListArray.from_arrays(pa.array(tokens[:whole]), type=self._type)
        self._writer.write_batch(pa.record_batch([column], schema=self._schema))
        self._pending, self._waiting = [tokens[whole:]], len(tokens) - whole


class TokenBlocks:
    """The blocks of one split: [N, S] token ids in a memory map.

    Attributes:
        block_size: S.
        parts: Number of blocks of each source that the tokens come from.
        roles: Special tokens of the tokenizer that made the tokens.
    """

    def __init__(
        self,
        chunks: Iterable[npt.NDArray[np.integer]],
        block_size: int,
        borders: BorderTable | None = None,
        parts: tuple[int, ...] | None = None,
        roles: Roles = OURS,
    ) -> None:
        """Wrap arrays of token ids, each [blocks, S]."""
        self.roles = roles
        self._chunks = list(chunks)
        self._borders = borders
        self._lay_out([len(chunk) for chunk in self._chunks], block_size, parts)

    def _lay_out(self, sizes: list[int], block_size: int, parts: tuple[int, ...] | None) -> None:
        self.block_size = block_size
        self._starts = np.cumsum([0, *sizes])
        self.parts = parts or (len(self),)

    @classmethod
    def open(
        cls, path: Path, parts: tuple[int, ...] | None = None, roles: Roles = OURS
    ) -> "TokenBlocks":
        """Open a file of :class:`BlockWriter` without reading it into memory.

        Args:
            path: The file; the borders, if stored, lie beside it.
            parts: Number of blocks of each source; None: there is one source.
            roles: Special tokens of the tokenizer; default: those of one trained here.

        Raises:
            IntegrityError: The file is missing or damaged.
        """
        chunks, size = map_blocks(path)
        beside = borders_path(path)
        borders = BorderTable([beside], [0]) if beside.is_file() else None
        return cls(chunks, size, borders, parts, roles)

    @property
    def borders(self) -> BorderTable | None:
        """Borders of documents and sentences, or None if they were not stored."""
        return self._borders

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: IntArray) -> IntArray:
        """Return the blocks at these indices: int64 [B, S]."""
        found = np.empty((len(indices), self.block_size), dtype=np.int64)
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            found[mine] = self._take(int(number), indices[mine] - self._starts[number])
        return found

    def _take(self, number: int, indices: IntArray) -> npt.NDArray[np.integer]:
        """Return blocks of one chunk."""
        return self._chunks[number][indices]

    def span(self, start: int, stop: int) -> IntArray:
        """Return the tokens of the stream from ``start`` to before ``stop``, one or more: int64."""
        number = int(self._starts.searchsorted(start // self.block_size, side="right")) - 1
        first, end = (self._starts[number : number + 2] * self.block_size).tolist()
        found = self._stretch(number, start - first, min(stop, end) - first)
        return found if stop <= end else np.concatenate([found, self.span(end, stop)])

    def _stretch(self, number: int, start: int, stop: int) -> IntArray:
        """Return tokens of one chunk that follow one another."""
        return self._chunks[number].reshape(-1)[start:stop].astype(np.int64)

    def following(self, indices: IntArray) -> IntArray:
        """Return the token that comes after each block, -1 after the last: int64 [B]."""
        return self._edge(indices + 1, 0)

    def preceding(self, indices: IntArray) -> IntArray:
        """Return the token that comes before each block, -1 before the first: int64 [B]."""
        return self._edge(indices - 1, -1)

    def _edge(self, neighbours: IntArray, position: int) -> IntArray:
        inside = (neighbours >= 0) & (neighbours < len(self))
        found = np.full(len(neighbours), OUTSIDE, dtype=np.int64)
        found[inside] = self.rows(neighbours[inside])[:, position]
        return found

    def counts(self, vocab_size: int) -> IntArray:
        """Return how often each token occurs: int64 [V].

        Of more than ``COUNTED_TOKENS`` tokens, blocks at equal distances are counted.
        """
        total = np.zeros(vocab_size, dtype=np.int64)
        counted = min(len(self), max(COUNTED_TOKENS // self.block_size, 1))
        for start in range(0, counted, COUNTED_BLOCKS):
            places = np.arange(start, min(start + COUNTED_BLOCKS, counted), dtype=np.int64)
            rows = self.rows(places * len(self) // counted)
            total += np.bincount(rows.ravel(), minlength=vocab_size)
        return total


def map_blocks(path: Path) -> tuple[list[npt.NDArray[np.integer]], int]:
    """Map a file of :class:`BlockWriter` into memory.

    Returns:
        Its record batches, each [blocks, S], and S.

    Raises:
        IntegrityError: The file is missing or damaged.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        columns = [reader.get_batch(i).column(0) for i in range(reader.num_record_batches)]
        size = int(reader.schema.field(COLUMN).type.list_size)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise IntegrityError(f"cannot read token file {path}: {error}") from error
    return [
        column.values.to_numpy(zero_copy_only=True).reshape(-1, size) for column in columns
    ], size


class SplitWriter(BlockWriter):
    """Write the tokens of one split with the borders of its documents and sentences."""

    def __init__(self, path: Path, block_size: int, vocab_size: int, roles: Roles) -> None:
        super().__init__(path, block_size, vocab_size, roles)
        self._rows: list[tuple[IntArray, IntArray, IntArray]] = []
        self._unwritten = 0
        self._borders = pa.ipc.new_file(str(borders_path(path)), BORDERS)

    def __enter__(self) -> "SplitWriter":
        return self

    def add_document(self, ids: list[int], sentences: IntArray) -> None:
        """Append one document.

        Args:
            ids: Its tokens, without special tokens.
            sentences: Number of tokens of each of its sentences; together all of them.
        """
        begin = self.add(ids)
        starts = begin + np.cumsum(sentences) - sentences
        first = np.zeros(len(sentences), dtype=np.int64)
        first[0] = 1
        self._rows.append((starts, sentences, first))
        self._unwritten += len(sentences)
        if self._unwritten >= ROWS_PER_BATCH:
            self._write_borders()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None and self._rows:
            self._write_borders()
        self._borders.close()

    def _write_borders(self) -> None:
        columns = [np.concatenate(column) for column in zip(*self._rows, strict=True)]
        arrays = [pa.array(c, type=f.type) for c, f in zip(columns, BORDERS, strict=True)]
        self._borders.write_batch(pa.record_batch(arrays, schema=BORDERS))
        self._rows, self._unwritten = [], 0
