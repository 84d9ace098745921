"""Writer of a split: blocks of tokens, and the borders of its documents and sentences."""

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import BlockWriter
from orchestrator.data.corpora.border_table import BORDERS, borders_path

ROWS_PER_BATCH = 1 << 14


class SplitWriter(BlockWriter):
    """Write the tokens of one split with the borders of its documents and sentences."""

    def __init__(self, path: Path, block_size: int, vocab_size: int) -> None:
        super().__init__(path, block_size, vocab_size)
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
