"""Other files in a folder of answers. Light: no torch, no Ray.

    out/part-00000.parquet ...      answers, in the order of the input
    out/_rejected/part-00000.jsonl  rows that could not be answered, and why; if there are any
    out/_state/plan.json            what is answered by what; equal plans continue one another
    out/_state/part-00000.json      written last for each part: its presence means it is complete
    out/_summary.json               written when all parts are complete

Readers of data sets skip names that begin with an underscore.
"""

from typing import Literal

from pydantic import Field

from orchestrator.config import StrictModel

STATE, REJECTED, SUMMARY = "_state", "_rejected", "_summary.json"
PLAN = "plan.json"

Source = Literal["jsonl", "csv", "tsv", "parquet", "text", "picture", "sound"]
CellType = Literal["bool", "int", "float", "string", "json"]


def part_name(number: int) -> str:
    """Return the name of a part, without its suffix."""
    return f"part-{number:05}"


class InputFile(StrictModel):
    """One file of the input."""

    path: str
    """Absolute path."""
    sha256: str
    """Digest of its content."""
    header: tuple[str, ...] = ()
    """Column names of a CSV or TSV file."""


class Piece(StrictModel):
    """Rows that are answered together."""

    number: int
    """Place among all pieces; parts are named after it."""
    file: int
    """Number of the input file; of images and sounds, of the first one."""
    start: int
    """First byte; of Parquet the first row, of images and sounds the first file."""
    stop: int
    """The one after the last."""
    first_row: int
    """Number of its first row in the file, from 0."""


class PredictPlan(StrictModel):
    """Inputs of the answers: rows, package and options."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    package: str
    """Reference of the package."""
    package_sha256: str
    """Digest of its manifest."""
    head: str | None
    """Head that answers; null: embeddings alone."""
    labels: tuple[str, ...] = ()
    """Names of its labels, in the order of the scores."""
    embedding: bool
    """Whether vectors are written."""
    prompt: str | None = None
    """Name of their prompt; null: the default one of the package."""
    format: Literal["parquet", "jsonl"]
    """Format of the answers."""
    prefix: str
    """Before the names of the new columns."""
    max_length: int | None
    """Longest text in tokens, if smaller than the package's limit."""
    source: Source
    """Format of the input."""
    text_column: str
    """Column of the text; of images and sounds, of the path."""
    pair_column: str | None = None
    """Column of the second text."""
    columns: dict[str, CellType] = Field(default_factory=dict)
    """Columns of the input and what their cells hold; of Parquet, none: the files say it."""
    files: tuple[InputFile, ...]
    """Files of the input, in their order."""
    pieces: tuple[Piece, ...]
    """Pieces, in the order of the rows."""


class OutputFile(StrictModel):
    """A file of a part."""

    sha256: str
    """Digest of its content."""
    bytes: int
    """Its size."""


class PartDone(StrictModel):
    """One finished part."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    number: int
    """Number of the piece."""
    plan_sha256: str
    """Digest of the plan that it belongs to."""
    rows: int
    """Rows that were answered."""
    rejected: dict[str, int]
    """Rows that were not, by reason."""
    repaired: int = 0
    """Answered rows with half of a character, which became U+FFFD."""
    unknown_share: float | None = None
    """Share of tokens that the tokenizer does not know, of some rows; null: none has a text."""
    seconds: float
    """Time that a worker took."""
    files: dict[str, OutputFile]
    """Its files, by their path in the output folder."""


class PredictSummary(StrictModel):
    """All parts of a job."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    package: str
    """Reference of the package."""
    package_sha256: str
    """Digest of its manifest."""
    rows: int
    """Rows that were answered."""
    rejected: dict[str, int]
    """Rows that were not, by reason."""
    repaired: int = 0
    """Answered rows with half of a character, which became U+FFFD."""
    unknown_share: float | None = None
    """Share of tokens that the tokenizer does not know; null: the rows have no texts."""
    parts: int
    """Number of parts."""
    labels: tuple[str, ...] = ()
    """Names of the labels, in the order of the scores."""
