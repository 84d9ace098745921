"""Inputs of batch prediction: files found, read once to check them, and cut into pieces of rows.

A piece begins and ends between two rows, so that every row is in exactly one of them.
"""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from orchestrator.config import did_you_mean
from orchestrator.data.sources.formats import (
    PLAIN_TEXT,
    TEXT_COLUMN,
    csv_rows,
)
from orchestrator.data.sources.lines import is_compressed, lines_and_ends, suffix_of, well_formed
from orchestrator.data.sources.media_rows import kind_of_file, media_files
from orchestrator.data.sources.parquet import open_parquet
from orchestrator.errors import InputError
from orchestrator.finetuning.predicting.results import CellType, InputFile, Piece, Source
from orchestrator.storage import sha256_file

FORMATS: Final[dict[str, Source]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys(PLAIN_TEXT, "text"),
}
COMPRESSED_ROWS: Final = 65_536
"""Rows of a piece of a compressed file, which is read from its beginning for each piece."""
MEDIA: Final = ("picture", "sound")
MEDIA_ROWS: Final = 128
"""Images or sounds of a piece; their content is in memory together."""
PATH_COLUMN: Final = "path"
"""Column that names the file of an image or sound in the answers."""
MAX_INT: Final = 2**63


@dataclass(frozen=True, slots=True)
class Survey:
    """Findings of one pass over the input.

    Attributes:
        source: Format of the files.
        files: In their order.
        pieces: In the order of the rows.
        columns: What the cells of each column hold; of Parquet in the terms of JSON, too.
    """

    source: Source
    files: tuple[InputFile, ...]
    pieces: tuple[Piece, ...]
    columns: dict[str, CellType]


def find_inputs(text: str) -> list[Path]:
    """Return the files that a path, folder or pattern names, sorted.

    Raises:
        InputError: There is none, or one of another format.
    """
    place = text.removeprefix("files:")
    if ":" in place.partition("/")[0]:
        raise InputError(f"input: {text!r} is not a path. predict reads files; give their path.")
    path = Path(place).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file()]
        found = [file for file in found if suffix_of(file) in FORMATS and not _hidden(file, path)]
        found = found or media_files(path)
        if not found:
            raise InputError(
                f"input: {path} holds no file of {', '.join(FORMATS)}, image or sound."
            )
    elif glob.has_magic(place):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        found = [file for file in found if file.is_file()]
        if not found:
            raise InputError(f"input: no file matches {place}.{_beside(path)}")
    elif path.is_file():
        found = [path]
    else:
        raise InputError(f"input: {path} does not exist.{_beside(path)}")
    files = sorted(file.absolute() for file in found)
    for file in files:
        if suffix_of(file) not in FORMATS and kind_of_file(file.name) is None:
            raise InputError(f"input: {file.name} is not of {', '.join(FORMATS)} (each also .gz).")
    return files


def survey(files: Sequence[Path], piece_rows: int) -> Survey:
    """Read all files once: check them, find their columns, and cut them into pieces.

    Raises:
        InputError: A file is damaged, not UTF-8, or of other columns or another format than the
            first one; or there are no rows.
    """
    sources = {_source(file) for file in files}
    if len(sources) > 1:
        raise InputError(f"input: files of {' and '.join(sorted(sources))} are mixed. Give one.")
    (source,) = sources
    if source in MEDIA:
        return _media_survey(source, files, piece_rows)
    columns: dict[str, CellType | None] = {}
    inputs: list[InputFile] = []
    pieces: list[Piece] = []
    for number, path in enumerate(files):
        header: tuple[str, ...] = ()
        if source == "parquet":
            _parquet_columns(path, columns, first=number == 0)
            ends = iter(range(1, _parquet_rows(path) + 1))
        elif source in ("csv", "tsv"):
            header, ends = _table_ends(path, source)
            _require_same_header(path, header, inputs)
            columns |= dict.fromkeys(header, "string")
        else:
            ends = _line_ends(path, columns, parse=source == "jsonl")
        rows = piece_rows
        if is_compressed(path):
            rows = max(piece_rows, COMPRESSED_ROWS)
        start = next(ends, 0) if source in ("csv", "tsv") else 0  # behind the header
        for piece in _cut(number, start, ends, rows):
            pieces.append(piece.model_copy(update={"number": len(pieces)}))
        inputs.append(InputFile(path=str(path), sha256=sha256_file(path), header=header))
    if not pieces:
        raise InputError(f"input: no rows in {files[0]}{' and the others' * (len(files) > 1)}.")
    known: dict[str, CellType] = {name: kind or "string" for name, kind in columns.items()}
    return Survey(source, tuple(inputs), tuple(pieces), known)


def _source(file: Path) -> Source:
    kind = kind_of_file(file.name)
    if kind is not None:
        return "picture" if kind == "picture" else "sound"
    return FORMATS[suffix_of(file)]


def _media_survey(source: Source, files: Sequence[Path], piece_rows: int) -> Survey:
    """Return one row per file; whether it can be decoded is found when it is read."""
    size = min(piece_rows, MEDIA_ROWS)
    pieces = [
        Piece(
            number=number,
            file=start,
            start=start,
            stop=min(start + size, len(files)),
            first_row=start,
        )
        for number, start in enumerate(range(0, len(files), size))
    ]
    inputs = [InputFile(path=str(file), sha256=sha256_file(file)) for file in files]
    return Survey(source, tuple(inputs), tuple(pieces), {PATH_COLUMN: "string"})


def _cut(file: int, start: int, ends: Iterator[int], rows: int) -> Iterator[Piece]:
    """Yield pieces of at most ``rows`` rows, given where each row ends."""
    count = first = 0
    last = start
    for end in ends:
        count, last = count + 1, end
        if count == rows:
            yield Piece(number=0, file=file, start=start, stop=last, first_row=first)
            start, first, count = last, first + count, 0
    if count:
        yield Piece(number=0, file=file, start=start, stop=last, first_row=first)


def _line_ends(path: Path, columns: dict[str, CellType | None], *, parse: bool) -> Iterator[int]:
    """Yield where each line that is not blank ends; note the columns of JSON objects."""
    if not parse:
        columns[TEXT_COLUMN] = "string"
    for line, end in lines_and_ends(path):
        if not line.strip():
            continue
        if parse:
            _note(line, columns)
        yield end


def _note(line: str, columns: dict[str, CellType | None]) -> None:
    try:
        row = json.loads(line)
    except ValueError:
        return  # its piece rejects it
    if isinstance(row, dict):
        for name, value in row.items():
            column = well_formed(name)
            columns[column] = _wider(columns.get(column), value)


def _wider(known: CellType | None, value: object) -> CellType | None:
    """Return what a column holds, given what it held so far and one more value."""
    if value is None:
        return known
    found: CellType = "json"
    if isinstance(value, bool):
        found = "bool"
    elif isinstance(value, int) and -MAX_INT <= value < MAX_INT:
        found = "int"
    elif isinstance(value, float):
        found = "float"
    elif isinstance(value, str):
        found = "string"
    if known is None or known == found:
        return found
    return "float" if {known, found} == {"int", "float"} else "json"


def _table_ends(path: Path, source: Source) -> tuple[tuple[str, ...], Iterator[int]]:
    """Return the header of a CSV or TSV file, and where it and each row end."""
    rows = cells_and_ends(path, source, (0, None))
    first = next(rows, None)
    if first is None:
        return (), iter(())
    header, end = first
    if len(set(header)) < len(header):
        raise InputError(f"{path}, line 1: two columns have the same name: {', '.join(header)}.")
    return tuple(header), iter([end, *(stop for _, stop in rows)])


def cells_and_ends(
    path: Path, source: Source, within: tuple[int, int | None]
) -> Iterator[tuple[list[str], int]]:
    """Yield the cells of each row of a CSV or TSV file that is not blank, and where it ends."""
    if source == "csv":
        return ((cells, end) for cells, end in csv_rows(path, within) if cells)
    lines = ((line.rstrip("\r\n"), end) for line, end in lines_and_ends(path, within))
    return ((line.split("\t"), end) for line, end in lines if line)


def _require_same_header(path: Path, header: tuple[str, ...], before: list[InputFile]) -> None:
    if before and set(header) != set(before[0].header):
        raise InputError(
            f"input: {path.name} has the columns {', '.join(header)}; "
            f"{Path(before[0].path).name} has {', '.join(before[0].header)}. Give files of one "
            "kind."
        )


def _parquet_rows(path: Path) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def _parquet_columns(path: Path, columns: dict[str, CellType | None], *, first: bool) -> None:
    with open_parquet(path) as file:
        schema = file.schema_arrow
    if not first and schema.names != list(columns):
        raise InputError(
            f"input: {path.name} has the columns {', '.join(schema.names)}, the files before it "
            f"{', '.join(columns)}. Give files of one kind."
        )
    for field in schema:
        columns[field.name] = "string" if _is_text(field.type) else "json"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _hidden(file: Path, folder: Path) -> bool:
    return any(part[:1] in "._" for part in file.relative_to(folder).parts)


def _beside(path: Path) -> str:
    """Return the names beside a path that is not there."""
    parent = path.parent
    if not parent.is_dir():
        return f" The folder {parent} does not exist either."
    names = sorted(each.name for each in parent.iterdir() if not each.name.startswith("."))
    hint = did_you_mean(path.name, names, f"In {parent}")
    return f" {hint}" if hint else f" {parent} is empty."
