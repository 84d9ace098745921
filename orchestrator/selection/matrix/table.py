"""Tables of scores as they are in a file: text cells with their line numbers.

pandas would read text as numbers, drop empty lines and name a missing id "nan"; an import must be
able to name the line and the column of everything it refuses.
"""

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import InputError

MATRIX_KEY = b"orchestrator.performance_matrix"
"""Key of a performance matrix in the metadata of a Parquet file."""
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
"""Texts of a missing value, in lower case."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        path: File, as it was named.
        sha256: Hash of its bytes.
        header: Names of the columns.
        lines: Line number in the file of each row; the header is line 1.
        rows: Cells of each row, as many as columns.
    """

    path: str
    sha256: str
    header: tuple[str, ...]
    lines: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]

    def refuse(self, line: int, column: str, why: str) -> InputError:
        """Return the error that names a line and a column."""
        return InputError(f"{self.path}: line {line}, column {column!r}: {why}")

    def number(self, row: int, column: int) -> float | None:
        """A cell as a number; None where it is missing.

        Raises:
            InputError: It is neither a finite number nor one of `MISSING`.
        """
        text = self.rows[row][column].strip()
        if text.lower() in MISSING:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.refuse(
                self.lines[row],
                self.header[column],
                f"{text[:40]!r} is not a finite number. Correct it, leave it empty, or leave the "
                "column out with --ignore.",
            )
        return value

    def duration(self, row: int, column: int | None) -> float | None:
        """A cell as seconds, 0 or more; None where it, or its column, is missing.

        Raises:
            InputError: It is negative, or not a number.
        """
        value = None if column is None else self.number(row, column)
        if value is not None and column is not None and value < 0:
            why = f"{value:g} seconds are negative. Correct it, or leave it empty."
            raise self.refuse(self.lines[row], self.header[column], why)
        return value

    def name(self, row: int, column: int) -> str:
        """A cell as the id of a model or data set.

        Raises:
            InputError: It is missing.
        """
        text = self.rows[row][column].strip()
        if text.lower() in MISSING:
            raise self.refuse(
                self.lines[row], self.header[column], f"{text!r} is not a name; every row needs one"
            )
        return text

    def place(self, *names: str) -> int | None:
        """Index of the first column with one of ``names``, in any case."""
        lowered = [title.lower() for title in self.header]
        return next((lowered.index(name) for name in names if name in lowered), None)

    def without(self, columns: Sequence[str]) -> "Table":
        """The table without some columns.

        Raises:
            InputError: One of them does not exist.
        """
        for name in columns:
            if name not in self.header:
                raise InputError(
                    f"{self.path}: --ignore {name}: no such column; it has {_listed(self.header)}."
                )
        at = [place for place, name in enumerate(self.header) if name not in columns]
        rows = tuple(tuple(row[place] for place in at) for row in self.rows)
        header = tuple(self.header[place] for place in at)
        return Table(self.path, self.sha256, header, self.lines, rows)


def read_table(path: str | Path) -> Table:
    """Read ``.csv``, ``.tsv``, ``.txt`` (tabs, or commas without any tab) or ``.parquet``.

    Raises:
        InputError: The file does not exist, is empty, is not text of that kind, has two columns of
            one name, or a line with another number of cells than the header.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise InputError(f"{path}: a table must end in {', '.join(SUFFIXES)}.")
    if not file.is_file():
        raise InputError(f"{path}: no such file.")
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    records = _parquet_records(file) if file.suffix == ".parquet" else _text_records(file, data)
    if not records:
        raise InputError(f"{path}: line 1: the file is empty; it needs a header and rows.")
    (_, first), rest = records[0], records[1:]
    header = tuple(name.strip() for name in first)
    twice = next((name for at, name in enumerate(header) if name in header[:at]), None)
    if twice is not None:
        raise InputError(f"{path}: line 1, column {twice!r}: two columns have this name.")
    if not rest:
        raise InputError(f"{path}: line 2: no rows below the header.")
    for line, row in rest:
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {line}, column {header[min(len(row), len(header)) - 1]!r}: "
                f"{len(row)} cells, the header has {len(header)}."
            )
    lines = tuple(line for line, _ in rest)
    return Table(str(path), digest, header, lines, tuple(row for _, row in rest))


def _text_records(file: Path, data: bytes) -> list[tuple[int, tuple[str, ...]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{file}: line {line}: not UTF-8 text.") from error
    first = text.partition("\n")[0]
    separator = "\t" if file.suffix == ".tsv" or "\t" in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [(reader.line_num, tuple(row)) for row in reader if any(row)]
    except csv.Error as error:
        raise InputError(f"{file}: line {reader.line_num}: {error}.") from error


def _parquet_records(file: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Header and rows of a plain Parquet table, numbered like the lines of a text file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not readable as Parquet: {error}") from error
    if MATRIX_KEY in (table.schema.metadata or {}):
        raise InputError(
            f"{file}: is a performance matrix already. Use it, or `orchestrator matrix export` it."
        )
    columns = [
        [
            "" if value is None else repr(value) if isinstance(value, float) else str(value)
            for value in table.column(name).to_pylist()
        ]
        for name in table.column_names
    ]
    rows = list(zip(*columns, strict=True)) if columns else []
    return [(line, tuple(row)) for line, row in enumerate([tuple(table.column_names), *rows], 1)]


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
