"""Settings of ``orchestrator predict``. Imports neither torch nor Ray."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.config.changes import PLACES, Change, Changes, Effect
from orchestrator.config.job import CommandConfig
from orchestrator.errors import Problem

Format = Literal["parquet", "jsonl"]


class PredictConfig(CommandConfig):
    """Answer every row of a table or folder, in parallel on Ray Data."""

    verb: ClassVar[str] = "predict"
    changes: ClassVar[Changes] = {**PLACES, "threads": Change(Effect.ROUNDING, "speed")}

    package: str = Field(min_length=1)
    """Package that answers: name, name@alias or name/v0001."""
    input: str = Field(min_length=1)
    """File, folder or pattern of JSONL, CSV, TSV, Parquet or text files (each line of a text file
    is a row), or a folder of images or sounds."""
    output: str = Field(min_length=1)
    """Folder of the answers; a new one, or that of the same job, which is then continued."""
    format: Format = "parquet"
    """Format of the answers."""
    target: str | None = None
    """Head that answers; null: the one that the package was made for."""
    answers: bool = True
    """Answer with a head; false: embeddings alone."""
    embedding: bool = False
    """Add the vector of each row."""
    prompt: str | None = None
    """Name of a prompt that the package states for its vectors; null takes its default one, an
    empty name none."""
    text_column: str | None = None
    """Column of the text; null takes text, text_a, sentence, content or document (or what the task
    reads, such as question)."""
    pair_column: str | None = None
    """Column of the second text; null takes text_b, where it exists."""
    prefix: str = "answer_"
    """Put before the names of the new columns."""
    piece_rows: int = Field(4096, ge=1)
    """Rows that are answered and committed together; a stopped job loses no more than these."""
    max_length: int | None = Field(None, ge=4)
    """Longest text in tokens; longer ones are cut. null: the limit of the package."""
    threads: int = Field(1, ge=1)
    """Threads of the model in each worker."""

    def problems(self) -> Iterable[Problem]:
        """Refuse a job that answers nothing."""
        if not self.answers and not self.embedding:
            yield Problem("answers", "false leaves nothing to write. Set embedding: true, too.")
        if not self.answers and self.target is not None:
            yield Problem("target", "has no effect with answers: false. Leave it out.")
        if not self.embedding and self.prompt is not None:
            yield Problem("prompt", "has no effect without embedding: true. Leave it out.")
