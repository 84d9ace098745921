"""Ranges of a file that begin and end between two records.

No record is cut and none is in two ranges: a border is found by reading on from the place where a
range would be large enough. A line is a record of JSONL, TSV and plain text read by line; lines up
to a blank one are for CoNLL and plain text read by paragraph. A row of CSV may hold line ends, so
only reading from the beginning tells where rows end: a CSV file is read once to be cut. Parquet is
cut between row groups. A file that is one document, and a compressed one, which cannot be entered
in the middle, are never cut.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from orchestrator.data.sources.formats import CONLL, PARQUET, PLAIN_TEXT, csv_rows
from orchestrator.data.sources.lines import BYTE_ORDER_MARK, is_compressed, suffix_of
from orchestrator.data.sources.parquet import open_parquet

Part = tuple[int, int, int]
"""First byte or row group, the one after the last, and bytes."""


def cut_file(path: Path, unit: str, size: int) -> list[Part]:
    """Cut a file into ranges of about ``size`` bytes, the last one smaller.

    Args:
        path: A file of a readable format.
        unit: What a document of plain text is: "line", "paragraph" or "file".
        size: A range ends at the first border at or after this many bytes.

    Raises:
        InputError: A CSV or Parquet file is not readable.
    """
    suffix, total = suffix_of(path), path.stat().st_size
    if suffix == PARQUET:
        return _row_groups(path, size)
    plain = suffix in PLAIN_TEXT
    if total <= size or is_compressed(path) or (plain and unit == "file"):
        return [(0, total, total)]
    if suffix == ".csv":
        borders = list(_csv_borders(path, size))
    else:
        paragraphs = suffix == CONLL or (plain and unit == "paragraph")
        follow = _next_paragraph if paragraphs else _next_line
        with path.open("rb") as file:
            least = _header_end(file) if suffix == ".tsv" else 0
            borders = list(_borders(file, total, size, least, follow))
    ends = [0, *(border for border in borders if border < total), total]
    return [(start, stop, stop - start) for start, stop in pairwise(ends)]


def _borders(
    file: BinaryIO, total: int, size: int, least: int, follow: Callable[[BinaryIO, int], int]
) -> Iterator[int]:
    """Yield where records begin, ``size`` bytes or more after one another."""
    place = max(size, least)
    while place < total:
        border = follow(file, place)
        yield border
        place = border + size


def _next_line(file: BinaryIO, place: int) -> int:
    """Return the beginning of the first line that begins at a place or after it."""
    file.seek(place - 1)
    file.readline()
    return file.tell()


def _next_paragraph(file: BinaryIO, place: int) -> int:
    """Return the beginning of a paragraph after a place: behind a blank line that is seen whole."""
    border = _next_line(file, place)
    after_blank = False
    while raw := file.readline():
        blank = not raw.decode("utf-8", "replace").strip()
        if after_blank and not blank:
            break
        after_blank |= blank
        border += len(raw)
    return border


def _header_end(file: BinaryIO) -> int:
    """Return the byte after the first line of a TSV file that is not blank."""
    mark = BYTE_ORDER_MARK.encode()
    while raw := file.readline():
        if raw.removeprefix(mark).strip(b"\r\n"):
            break
    return file.tell()


def _csv_borders(path: Path, size: int) -> Iterator[int]:
    """Yield where rows of a CSV file begin, ``size`` bytes or more after one another."""
    last, header = 0, False
    for cells, end in csv_rows(path):
        header = header or bool(cells)
        if header and end - last >= size:
            yield end
            last = end


def _row_groups(path: Path, size: int) -> list[Part]:
    with open_parquet(path) as file:
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    parts: list[Part] = []
    first = held = 0
    for number, bytes_ in enumerate(sizes):
        held += bytes_
        if held >= size or number + 1 == len(sizes):
            parts.append((first, number + 1, held))
            first, held = number + 1, 0
    return parts
