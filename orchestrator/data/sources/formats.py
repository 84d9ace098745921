"""File formats: JSONL, TSV, CSV, Parquet, CoNLL, plain text and JSON tables, as streams of rows.

Text files are read line by line (see ``lines``), Parquet row group by row group, a thousand rows
at a time. A row that cannot be used is counted by reason and left out; one with half of a character
is repaired and counted.

Every reader takes a range (see ``ranges``): bytes of a text file, row groups of Parquet.

A JSON file is a list of rows, or the articles of SQuAD. A row of SQuAD is a question: ``title``,
``context``, ``question``, ``answers`` (its list of ``{text, answer_start}``) and
``is_impossible``, where the file has these.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.data.sources.lines import (
    WHOLE,
    Range,
    lines_and_ends,
    lines_before,
    read_lines,
    repaired,
    suffix_of,
)
from orchestrator.data.sources.parquet import read_columns
from orchestrator.errors import InputError

Row = Mapping[str, object]
Reader = Callable[[Path, Counter[str], Range], Iterator[Row]]

TEXT_COLUMN = "text"  # of plain text
PLAIN_TEXT = (".txt", ".text")
PARQUET = ".parquet"
JSON = ".json"  # of labelled rows alone: a corpus is read in ranges
CONLL = ".conll"
DOCUMENT_START, COMMENT = "-DOCSTART-", "# "  # CoNLL lines without a word
MAX_CELL = 1 << 27  # characters of a CSV cell; csv's own limit is 128 KiB
ROWS_KEY = "data"  # of a JSON file that is not a list


def read_rows(path: Path, rejected: Counter[str], within: Range = WHOLE) -> Iterator[Row]:
    """Read the rows of a table file.

    Args:
        path: A file with a suffix of ``READERS``.
        rejected: Counts the rows left out, by reason.
        within: The range to read.

    Raises:
        InputError: The file is not UTF-8 or not of its format.
    """
    if suffix_of(path) == JSON:
        rows = json_rows(path, "".join(read_lines(path)))
    else:
        rows = READERS[suffix_of(path)](path, rejected, within)
    return (repaired(row, rejected) for row in rows)


def _read_jsonl(path: Path, rejected: Counter[str], within: Range) -> Iterator[Row]:
    for line in read_lines(path, within):
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


def _read_tsv(path: Path, rejected: Counter[str], within: Range) -> Iterator[Row]:
    yield from _named(path, _tsv_cells(path, within), rejected, _header(path, within, _tsv_cells))


def _tsv_cells(path: Path, within: Range) -> Iterator[list[str]]:
    lines = (line.rstrip("\r\n") for line in read_lines(path, within))
    return (line.split("\t") for line in lines if line)


def _read_csv(path: Path, rejected: Counter[str], within: Range) -> Iterator[Row]:
    yield from _named(path, _csv_cells(path, within), rejected, _header(path, within, _csv_cells))


def _csv_cells(path: Path, within: Range) -> Iterator[list[str]]:
    return (cells for cells, _ in csv_rows(path, within) if cells)


def csv_rows(path: Path, within: Range = WHOLE) -> Iterator[tuple[list[str], int]]:
    """Yield the cells of each row of a CSV file and the byte after the row; blank rows are empty.

    Raises:
        InputError: The file is not CSV; names the line.
    """
    csv.field_size_limit(MAX_CELL)
    end = within[0]

    def lines() -> Iterator[str]:
        nonlocal end
        for line, end in lines_and_ends(path, within):  # noqa: B007  (the reader's place)
            yield line

    reader = csv.reader(lines(), strict=True)
    try:
        for cells in reader:
            yield cells, end
    except csv.Error as error:
        line = reader.line_num + lines_before(path, within[0])
        raise InputError(f"{path}, line {line}: not CSV ({error}).") from error


def _header(
    path: Path, within: Range, cells: Callable[[Path, Range], Iterator[list[str]]]
) -> list[str] | None:
    """Return the header of a file for a range that begins behind it, else None."""
    return next(cells(path, WHOLE), None) if within[0] else None


def _named(
    path: Path, cells: Iterator[list[str]], rejected: Counter[str], header: list[str] | None
) -> Iterator[Row]:
    """Name the cells of each row by the header, which comes first where it is not given."""
    header = header or next(cells, None)
    if header is None:
        return
    if len(set(header)) < len(header):
        raise InputError(f"{path}, line 1: two columns have the same name: {', '.join(header)}.")
    for row in cells:
        if len(row) == len(header):
            yield dict(zip(header, row, strict=True))
        else:
            rejected["another number of columns than the header"] += 1


def _read_parquet(path: Path, rejected: Counter[str], within: Range) -> Iterator[Row]:
    return read_columns(path, None, rejected, within)


def read_plain(path: Path, unit: str, within: Range = WHOLE) -> Iterator[str]:
    """Yield the documents of a plain text file.

    Args:
        path: The file.
        unit: "line", "paragraph" (lines up to a blank one) or "file".
        within: The range to read.
    """
    if unit == "line":
        yield from read_lines(path, within)
        return
    lines: list[str] = []
    for line in read_lines(path, within):
        if line.strip() or unit == "file":
            lines.append(line)
        elif lines:
            yield "".join(lines)
            lines = []
    if lines:
        yield "".join(lines)


def _read_text(path: Path, rejected: Counter[str], within: Range) -> Iterator[Row]:
    del rejected
    return ({TEXT_COLUMN: line} for line in read_lines(path, within))


def _read_conll(path: Path, rejected: Counter[str], within: Range) -> Iterator[Row]:
    """Yield sentences: a word a line, its tag in the last column; blank lines between sentences.

    A line that begins with "# " and has other columns than the words is a comment.
    """
    for paragraph in read_plain(path, "paragraph", within):
        lines = paragraph.strip("\r\n").split("\n")
        lines = [line for line in lines if not line.startswith(DOCUMENT_START)]
        columns = max(len(_word_cells(lines[-1])), 2) if lines else 0
        words = [
            cells
            for line, cells in ((line, _word_cells(line)) for line in lines)
            if len(cells) == columns or not line.startswith(COMMENT)
        ]
        if lines and all(line.startswith(COMMENT) for line in lines):
            rejected["only a comment"] += 1
        elif any(len(cells) != columns for cells in words):
            rejected["word without a tag or with other columns than its sentence"] += 1
        elif words:
            texts, tags = [cells[0] for cells in words], [cells[-1] for cells in words]
            yield {TEXT_COLUMN: " ".join(texts), "tokens": texts, "tags": tags}


def _word_cells(line: str) -> list[str]:
    """Return the cells of a word; tabs separate them where there are any, else blanks."""
    line = line.strip()
    return line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]


READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    PARQUET: _read_parquet,
    CONLL: _read_conll,
    **dict.fromkeys(PLAIN_TEXT, _read_text),
}


def json_rows(path: Path, text: str) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a JSON file.

    Args:
        path: the file, for messages.
        text: its content.

    Raises:
        InputError: it is not JSON, or has no rows.
    """
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    rows = content.get(ROWS_KEY) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{path} has no rows: a list of objects is wanted, or SQuAD's object with the key "
            f"{ROWS_KEY!r}. One object per line is JSONL: call the file .jsonl."
        )
    for row in rows:
        yield from _questions(path, row) if "paragraphs" in row else [row]


def _questions(path: Path, article: dict[str, Any]) -> Iterator[Mapping[str, object]]:
    """Yield the questions of an article of SQuAD."""
    title = article.get("title")
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {"title": title, "context": paragraph["context"], "answers": [], **question}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: article {title!r} is not as SQuAD has them: paragraphs with context and qas."
        ) from error
