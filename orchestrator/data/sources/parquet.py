"""Parquet files: columns of some row groups as streams of rows.

Arrow checks no bytes when it writes a file, so a cell may hold text that no other program can read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.sources.lines import COPY_BYTES, WHOLE, Range
from orchestrator.errors import InputError

ROWS_PER_BATCH = 1024
"""A row may be a whole article."""
NOT_UTF8 = "text is not UTF-8"


def read_columns(
    path: Path, columns: list[str] | None, rejected: Counter[str], within: Range = WHOLE
) -> Iterator[Mapping[str, object]]:
    """Yield the rows of some row groups of a Parquet file.

    Args:
        path: The file.
        columns: Which columns; None: all.
        rejected: Counts the rows left out, by reason.
        within: The row groups.

    Raises:
        InputError: The Parquet file cannot be read.
    """
    with open_parquet(path) as file:
        first, stop = within
        groups = range(first, file.num_row_groups if stop is None else stop)
        batches = file.iter_batches(ROWS_PER_BATCH, row_groups=list(groups), columns=columns)
        try:
            for batch in batches:
                for row in arrow_rows(pa.Table.from_batches([batch])):
                    if row is None:
                        rejected[NOT_UTF8] += 1
                    else:
                        yield row
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"cannot read Parquet file {path}: {error}") from error


def arrow_rows(table: pa.Table) -> Iterator[Mapping[str, object] | None]:
    """Yield the rows of an Arrow table, None in place of a row whose text is not UTF-8."""
    try:
        yield from table.to_pylist()
        return
    except UnicodeDecodeError:  # of any row: none was yielded
        kinds = {field.name: _bytes(field.type) for field in table.schema}
        read = {field.name for field in table.schema if kinds[field.name] != field.type}
    for row in table.cast(pa.schema(kinds)).to_pylist():
        try:
            yield {name: _decoded(row[name]) if name in read else row[name] for name in row}
        except UnicodeDecodeError:
            yield None


def _bytes(kind: pa.DataType) -> pa.DataType:
    """Return a type with bytes in place of texts."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_bytes(kind.value_type))
    return pa.binary() if pa.types.is_string(kind) or pa.types.is_large_string(kind) else kind


def _decoded(cell: object) -> object:
    """Return a cell with texts in place of bytes; half of a surrogate pair stays."""
    if isinstance(cell, list):
        return [_decoded(part) for part in cell]
    return cell.decode("utf-8", "surrogatepass") if isinstance(cell, bytes) else cell


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file so that its pages are read as they are needed.

    Raises:
        InputError: It is not a Parquet file.
    """
    try:
        return pq.ParquetFile(path, buffer_size=COPY_BYTES, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"cannot read Parquet file {path}: {error}") from error
