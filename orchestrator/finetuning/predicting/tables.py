"""Rows of a piece in, tables of answers out: reading, rejecting and Arrow types.

Shapes: N rows, D width.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from io import BytesIO
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args, get_origin, get_type_hints

import pyarrow as pa

from orchestrator.data.media.audio import read_sound
from orchestrator.data.media.images import read_image
from orchestrator.data.rows.forms.choice import choices_reader
from orchestrator.data.sources.formats import TEXT_COLUMN
from orchestrator.data.sources.lines import REPAIRED, read_lines, repaired, well_formed
from orchestrator.data.sources.parquet import NOT_UTF8, arrow_rows, open_parquet
from orchestrator.errors import InputError
from orchestrator.finetuning.predicting.inputs import MEDIA, PATH_COLUMN, cells_and_ends
from orchestrator.finetuning.predicting.results import CellType, InputFile, Piece, PredictPlan
from orchestrator.tasks.base import AnyTask

READ_ROWS: Final = 1024
"""Rows of Parquet that are decoded at a time."""
CELLS: Final[dict[CellType, pa.DataType]] = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
}
PLAIN: Final[dict[type, pa.DataType]] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
}

Cells = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NoRow:
    """An item that is not a row of its format, and the reason."""

    reason: str
    raw: object


@dataclass(slots=True)
class Reject:
    """A row that cannot be answered."""

    file: str
    row: int
    reason: str
    content: object

    def line(self) -> str:
        """Return it as a line of JSON."""
        values = {name: getattr(self, name) for name in ("file", "row", "reason", "content")}
        return well_formed(json.dumps(values, ensure_ascii=False, default=str)) + "\n"


@dataclass(slots=True)
class Content:
    """The rows of one piece.

    Attributes:
        rows: Cells of the rows that can be answered.
        table: The same rows as Arrow gives them; None: the input is not Parquet.
        texts: Their texts, or lists of words, or contents of image and sound files.
        pairs: Their second texts.
        choices: Their candidates.
        rejects: The other rows.
        repaired: Number of rows with half of a character, which became U+FFFD.
    """

    rows: list[Cells] = field(default_factory=list)
    table: pa.Table | None = None
    texts: list[Any] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    choices: list[tuple[str, ...]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    repaired: int = 0


def read_piece(
    plan: PredictPlan, piece: Piece, *, words: bool = False, choices: bool = False
) -> Content:
    """Read the rows of a piece and part those that can be answered from the others.

    Args:
        plan: The job.
        piece: Which rows.
        words: Whether a list of words may stand in place of a text.
        choices: Whether each row has candidates.

    Raises:
        InputError: A file is gone or not what it was.
    """
    file = plan.files[piece.file]
    found = Content()
    if plan.source in MEDIA:
        return _read_media(plan, piece, found)
    kept: list[int] = []
    candidates = None
    if choices:
        taken = {plan.text_column, plan.pair_column}
        candidates = choices_reader(plan.columns, Path(file.path), taken)
    table = _parquet_slice(file, piece) if plan.source == "parquet" else None
    counts: Counter[str] = Counter()
    numbered = _cells(plan, file, piece) if table is None else _arrow_cells(table)
    for place, given in numbered:
        number = piece.first_row + place
        if isinstance(given, NoRow):
            found.rejects.append(Reject(file.path, number, given.reason, given.raw))
            continue
        row: Cells = dict(repaired(given, counts))
        cells = None if candidates is None else candidates(row)
        reason = _unusable(plan, row, words=words) or (cells if isinstance(cells, str) else None)
        if reason is not None:
            found.rejects.append(Reject(file.path, number, reason, row))
            continue
        kept.append(place)
        found.rows.append(row)
        found.texts.append(row[plan.text_column])
        if plan.pair_column is not None:
            found.pairs.append(row[plan.pair_column])
        if isinstance(cells, list):
            found.choices.append(tuple(text for _, text in cells))
    found.repaired = counts[REPAIRED]
    if table is not None:
        found.table = table.take(pa.array(kept, pa.int64()))
        if found.repaired:
            found.table = pa.Table.from_pylist(found.rows, table.schema)
    return found


def _arrow_cells(table: pa.Table) -> Iterator[tuple[int, Cells | NoRow]]:
    """Yield place and cells of each row of a Parquet file."""
    for place, row in enumerate(arrow_rows(table)):
        yield place, NoRow(NOT_UTF8, None) if row is None else dict(row)


def _read_media(plan: PredictPlan, piece: Piece, found: Content) -> Content:
    """Read the files of images or sounds of a piece."""
    for number in range(piece.start, piece.stop):
        path = plan.files[number].path
        try:
            content = Path(path).read_bytes()
            if plan.source == "picture":
                read_image(BytesIO(content))
            else:
                read_sound(BytesIO(content), resample=True)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        except InputError:
            reason = f"cannot be decoded as a {plan.source}"
            found.rejects.append(Reject(path, 0, reason, None))
            continue
        found.rows.append({PATH_COLUMN: path})
        found.texts.append(content)
    return found


def _unusable(plan: PredictPlan, row: Cells, *, words: bool) -> str | None:
    """Return why a row cannot be answered, or None."""
    names = {"text": plan.text_column, "second text": plan.pair_column}
    for what, column in names.items():
        if column is None:
            continue
        value = row.get(column)
        if value is None:
            return f"{what} missing"
        if words and isinstance(value, list) and value and all(isinstance(w, str) for w in value):
            continue
        if not isinstance(value, str):
            return f"{what} is not a string"
        if not value.strip():
            return f"empty {what}"
    return None


def _cells(plan: PredictPlan, file: InputFile, piece: Piece) -> Iterator[tuple[int, Cells | NoRow]]:
    """Yield place and cells of each row of a text file."""
    path, within = Path(file.path), (piece.start, piece.stop)
    if plan.source in ("csv", "tsv"):
        for place, (cells, _) in enumerate(cells_and_ends(path, plan.source, within)):
            if len(cells) == len(file.header):
                yield place, dict(zip(file.header, cells, strict=True))
            else:
                yield place, NoRow("another number of columns than the header", cells)
        return
    lines = (line for line in read_lines(path, within) if line.strip())
    for place, line in enumerate(lines):
        if plan.source == "text":
            yield place, {TEXT_COLUMN: line.rstrip("\r\n")}
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield place, row if isinstance(row, dict) else NoRow("not a JSON object", line.strip())


def _parquet_slice(file: InputFile, piece: Piece) -> pa.Table:
    """Return rows ``start`` to ``stop`` of a Parquet file; only their row groups are decoded."""
    with open_parquet(Path(file.path)) as parquet:
        groups: list[int] = []
        first = before = 0
        for number in range(parquet.num_row_groups):
            after = before + parquet.metadata.row_group(number).num_rows
            if after > piece.start and before < piece.stop:
                first = before if not groups else first
                groups.append(number)
            before = after
        batches = []
        place = first
        for batch in parquet.iter_batches(READ_ROWS, row_groups=groups):
            low, high = max(piece.start - place, 0), min(piece.stop - place, len(batch))
            if high > low:
                batches.append(batch.slice(low, high - low))
            place += len(batch)
            if place >= piece.stop:
                break
        return pa.Table.from_batches(batches, parquet.schema_arrow.remove_metadata())


def input_table(plan: PredictPlan, content: Content) -> pa.Table:
    """Return the columns of the input of the rows that were answered."""
    if content.table is not None:
        return content.table
    arrays = {
        name: pa.array([_cell(row.get(name), kind) for row in content.rows], CELLS[kind])
        for name, kind in plan.columns.items()
    }
    return pa.table(arrays)


def _cell(value: object, kind: CellType) -> object:
    if value is None or kind != "json":
        return float(value) if kind == "float" and isinstance(value, int) else value
    return json.dumps(value, ensure_ascii=False)


def answer_types(task: AnyTask) -> dict[str, pa.DataType]:
    """Return the Arrow type of each field of a task's answers, from their type hints.

    They are the same whatever the rows, so that all parts have one schema.
    """
    for base in getattr(type(task), "__orig_bases__", ()):
        answer = get_args(base)[-1]
        if is_dataclass(answer):
            hints = get_type_hints(answer)
            return {each.name: arrow_type(hints[each.name]) for each in fields(answer)}
    raise InputError(f"the answers of task kind {task.kind()!r} cannot be written as a table.")


def arrow_type(hint: Any) -> pa.DataType:
    """Return the Arrow type of a type hint of an answer."""
    if hint in PLAIN:
        return PLAIN[hint]
    arguments = [part for part in get_args(hint) if part not in (NoneType, Ellipsis)]
    if get_origin(hint) in (tuple, list):
        return pa.list_(arrow_type(arguments[0]))
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return pa.struct([(each.name, arrow_type(hints[each.name])) for each in fields(hint)])
    if len(arguments) == 1:  # a value or None
        return arrow_type(arguments[0])
    raise TypeError(f"{hint} has no counterpart in a table")


def answer_columns(
    plan: PredictPlan, task: AnyTask | None, answers: Sequence[Cells], vectors: Any
) -> dict[str, pa.Array]:
    """Return the new columns: answers, vectors, and the digest of the package.

    Args:
        plan: The job.
        task: Whose answers; None: there are none.
        answers: One per row, as JSON values.
        vectors: float32 [N, D], or None.
    """
    columns = {}
    if task is not None:
        for name, kind in answer_types(task).items():
            values = [answer[name] for answer in answers]
            columns[f"{plan.prefix}{name}"] = pa.array(values, kind)
    if plan.embedding:
        rows = [] if vectors is None else list(vectors)
        columns[f"{plan.prefix}embedding"] = pa.array(rows, pa.list_(pa.float32()))
    count = len(answers) if task is not None else len(vectors)
    columns[f"{plan.prefix}package"] = pa.array([plan.package_sha256] * count, pa.string())
    return columns
