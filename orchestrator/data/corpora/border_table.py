"""Borders of documents and sentences in a stream of tokens: tables on disk, read through maps.

A row is a sentence: position of its first token in the stream, number of tokens, whether a document
begins with it. Frames and padding belong to no sentence. Each file of blocks has a table beside it;
the tables of many files are read as one. In memory are only the numbers of their rows, one for each
batch of rows that was written.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.arrays import IntArray
from orchestrator.errors import IntegrityError

Columns = list[npt.NDArray[Any]]

SENTENCES = ".sentences.arrow"
BORDERS = pa.schema([("start", pa.int64()), ("length", pa.int32()), ("first", pa.int8())])
"""A row is a sentence; see :class:`Borders`."""
OPEN_TABLES = 256  # open maps; each holds a file descriptor, and a process has about a thousand


def borders_path(blocks: Path) -> Path:
    """Return where the borders of a file of blocks are."""
    return blocks.with_suffix(SENTENCES)


class Borders(NamedTuple):
    """Sentences of a stream.

    Attributes:
        starts: Position of the first token of each, int64 [N].
        lengths: Number of tokens, int64 [N].
        first: Whether a document begins with it, bool [N].
    """

    starts: IntArray
    lengths: IntArray
    first: npt.NDArray[np.bool_]


class BorderTable:
    """The sentences of a stream that lies in one file or in many. ``len()`` is their number."""

    def __init__(self, paths: Sequence[Path], positions: Sequence[int]) -> None:
        """Open tables.

        Args:
            paths: The tables, in order.
            positions: Where in the stream the tokens of each begin.

        Raises:
            IntegrityError: A file is missing or damaged.
        """
        self._paths, self._positions = list(paths), list(positions)
        self._opened = lru_cache(maxsize=OPEN_TABLES)(self._open)
        sizes = [[len(batch[0]) for batch in self._opened(n)] for n in range(len(self._paths))]
        self._places = [
            (n, number) for n, found in enumerate(sizes) for number in range(len(found))
        ]
        self._begins = np.cumsum([0, *chain.from_iterable(sizes)])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def rows(self, start: int, stop: int) -> Borders:
        """Return the sentences from number ``start`` to before ``stop``, at least one."""
        batch = int(self._begins.searchsorted(start, side="right")) - 1
        parts = [self._part(batch, start, stop)]
        while (start := int(self._begins[batch + 1])) < stop:
            batch += 1
            parts.append(self._part(batch, start, stop))
        if len(parts) == 1:
            return parts[0]
        starts, lengths, first = zip(*parts, strict=True)
        return Borders(np.concatenate(starts), np.concatenate(lengths), np.concatenate(first))

    def _part(self, batch: int, start: int, stop: int) -> Borders:
        """Return the sentences of one record batch."""
        table, number = self._places[batch]
        begin = int(self._begins[batch])
        mine = slice(start - begin, stop - begin)
        starts, lengths, first = self._opened(table)[number]
        position = self._positions[table]
        return Borders(
            starts[mine] + position, lengths[mine].astype(np.int64), first[mine].astype(np.bool_)
        )

    def _open(self, table: int) -> list[Columns]:
        """Map the columns of each batch of a table."""
        path = self._paths[table]
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
            return [[batch.column(name).to_numpy() for name in BORDERS.names] for batch in batches]
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise IntegrityError(f"cannot read table of borders {path}: {error}") from error
