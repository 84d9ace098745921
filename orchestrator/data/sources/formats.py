"""File formats: JSONL, TSV, CSV, Parquet and plain text, each as a stream of rows.

Text files are read as UTF-8, line by line, gzip included. A byte that is not UTF-8 is an error with
its place; a row that cannot be used is counted by reason and left out.
"""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import InputError

Row = Mapping[str, object]
Reader = Callable[[Path, Counter[str]], Iterator[Row]]

TEXT_COLUMN = "text"  # of plain text
PLAIN_TEXT = (".txt", ".text")
MAX_CELL = 1 << 27  # characters of a CSV cell; csv's own limit is 128 KiB
BYTE_ORDER_MARK = "\ufeff"


def suffix_of(path: Path) -> str:
    """Return the suffix that says the format, without .gz and in lower case."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_rows(path: Path, rejected: Counter[str]) -> Iterator[Row]:
    """Read the rows of a table file.

    Args:
        path: a file with a suffix of ``READERS``.
        rejected: counts the rows left out, by reason.

    Raises:
        InputError: the file is not UTF-8 or not of its format.
    """
    return READERS[suffix_of(path)](path, rejected)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their line ends.

    Raises:
        InputError: a byte is not UTF-8, or the file cannot be read; names file, line and byte.
    """
    offset = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                yield _decode(path, raw, number, offset)
                offset += len(raw)
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _open(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _decode(path: Path, raw: bytes, number: int, offset: int) -> str:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise InputError(
            f"{path}, line {number}, byte {place}: 0x{raw[error.start]:02x} is not UTF-8. Convert "
            f"the file first, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from None
    return line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _read_jsonl(path: Path, rejected: Counter[str]) -> Iterator[Row]:
    for line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            rejected["not a JSON object"] += 1


def _read_tsv(path: Path, rejected: Counter[str]) -> Iterator[Row]:
    lines = (line.rstrip("\r\n") for line in read_lines(path))
    yield from _named(path, (line.split("\t") for line in lines if line), rejected)


def _read_csv(path: Path, rejected: Counter[str]) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(read_lines(path), strict=True)
    try:
        yield from _named(path, (cells for cells in reader if cells), rejected)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _named(path: Path, cells: Iterator[list[str]], rejected: Counter[str]) -> Iterator[Row]:
    """Name the cells of each row by the header."""
    header = next(cells, None)
    if header is None:
        return
    if len(set(header)) < len(header):
        raise InputError(f"{path}, line 1: two columns have the same name: {', '.join(header)}.")
    for row in cells:
        if len(row) == len(header):
            yield dict(zip(header, row, strict=True))
        else:
            rejected["another number of columns than the header"] += 1


def _read_parquet(path: Path, rejected: Counter[str]) -> Iterator[Row]:
    del rejected
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no readable Parquet file: {error}") from error


def read_plain(path: Path, unit: str) -> Iterator[str]:
    """Yield the documents of a plain text file.

    Args:
        path: the file.
        unit: "line", "paragraph" (lines up to a blank one) or "file".
    """
    if unit == "line":
        yield from read_lines(path)
        return
    lines: list[str] = []
    for line in read_lines(path):
        if line.strip() or unit == "file":
            lines.append(line)
        elif lines:
            yield "".join(lines)
            lines = []
    if lines:
        yield "".join(lines)


def _read_text(path: Path, rejected: Counter[str]) -> Iterator[Row]:
    del rejected
    return ({TEXT_COLUMN: line} for line in read_lines(path))


READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    **dict.fromkeys(PLAIN_TEXT, _read_text),
}
