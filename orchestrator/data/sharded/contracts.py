"""Values that cross a process or disk border in a corpus build: pieces, tasks, results, files.

A field is never renamed: these are the keys of ``plan.json``, of the sidecars and of the manifest.

A piece is the input of one shard: one or more whole spans of one source, that is a range of a large
file, or many small files. It depends on the sources and their size alone. So workers need not agree
about borders, pieces can be processed in any order and by any number of workers, and processing one
again gives the same shard.

A mapper applies a task of a job to many inputs, in any order. Inputs and results are models, so
they may go to another process. ``in_turn`` works in this process; ``ray_data`` has another mapper.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from orchestrator.config import StrictModel
from orchestrator.data.corpora.manifests import FileEntry
from orchestrator.data.rows.splitting import rank
from orchestrator.data.sources.contents import Documents, Span
from orchestrator.data.sources.opening import open_documents
from orchestrator.data.spec import CorpusConfig
from orchestrator.storage import jsonable, sha256_bytes

SPLITS = ("train", "validation")


class Piece(StrictModel):
    """Consecutive spans of one source."""

    source: int
    """Number of the source."""
    spans: tuple[Span, ...]
    limit: int | None = None
    """Maximum number of documents, if the cap of the source ends in this piece."""

    @property
    def size(self) -> int:
        """Approximate bytes of text."""
        return sum(span.size for span in self.spans)

    def capped(self, limit: int) -> "Piece":
        """Return the piece with a limit."""
        return self.model_copy(update={"limit": limit})

    def documents(self, sources: Sequence[Documents], rejected: Counter[str]) -> Iterator[str]:
        """Yield its documents; counts those left out, by reason."""
        read = sources[self.source].read
        return islice((t for span in self.spans for t in read(span, rejected)), self.limit)


def divide(source: int, documents: Documents, size: int) -> list[Piece]:
    """Divide a source into pieces of about ``size`` bytes; at least one, which may be empty."""
    pieces = [
        Piece(source=source, spans=spans) for spans in _together(documents.divide(size), size)
    ]
    return pieces or [Piece(source=source, spans=())]


class PieceTask(StrictModel):
    """A piece to read for the survey."""

    number: int
    piece: Piece


class PieceCounts(StrictModel):
    """Result of reading a piece: its documents, and their first and last rank in hexadecimal."""

    number: int
    documents: int
    least: str
    greatest: str
    rejected: dict[str, int]


class HeldOut(StrictModel):
    """The rule for validation documents: a share by hash, never none and never all of them."""

    seed: int
    """Seed of the ranks."""
    share: float
    """Share of the documents."""
    least: str
    """Rank of the first document in hexadecimal; it is always held out."""
    greatest: str
    """Rank of the last document; it is never held out."""

    def has(self, text: str) -> bool:
        """Return whether a document is held out."""
        place = rank(self.seed, text)
        if place.hex() in (self.least, self.greatest):
            return place.hex() == self.least
        return int.from_bytes(place[:8], "big") < self.share * 2**64


class ShardRules(StrictModel):
    """Everything that all shards share."""

    held_out: HeldOut
    tokenizer_sha256: str


class PlannedShard(StrictModel):
    """The piece of a shard, and the number of documents that the survey found in it."""

    piece: Piece
    documents: int


class ShardTask(PlannedShard):
    """A shard to build."""

    number: int


class Plan(StrictModel):
    """Everything that is fixed before the first shard is built."""

    shards: tuple[PlannedShard, ...]
    held_out: HeldOut
    tokenizer_sha256: str
    tokenizer_files: dict[str, str]
    """File name → SHA-256."""


class StoredPlan(StrictModel):
    """``plan.json``: the plan and its own hash."""

    plan: Plan
    sha256: str


class Sidecar(StrictModel):
    """``shard-00007.json``: inputs, counts and files of a finished shard."""

    number: int
    made_of: str
    """Hash of everything that determines the bytes of the shard."""
    source: int
    documents: dict[str, int]
    tokens: dict[str, int]
    blocks: dict[str, int]
    rejected: dict[str, int]
    unknown: int = 0
    """Tokens that the tokenizer does not know."""
    files: dict[str, FileEntry]


class BuiltShard(StrictModel):
    """A finished shard, and whether this run has built it or found it."""

    sidecar: Sidecar
    built: bool

    @property
    def number(self) -> int:
        """Number of the shard."""
        return self.sidecar.number


def content_hash(content: object) -> str:
    """Return the SHA-256 of a model, or of a list of models and JSON values."""
    return sha256_bytes(json.dumps(jsonable(content), sort_keys=True).encode())


Input = TypeVar("Input", PieceTask, ShardTask)


Result = TypeVar("Result", PieceCounts, BuiltShard)


Watch = Callable[[str, int, int, PieceCounts | BuiltShard], None]
"""Receives the step, the number of finished inputs, their total, and the newest result."""


class Mapper(Protocol):
    """Applies a task to inputs; results come in any order."""

    def __call__(
        self, task: Callable[[Input], Result], inputs: Sequence[Input]
    ) -> Iterable[Result]:
        """Yield the result of each input."""
        ...


def in_turn(task: Callable[[Input], Result], inputs: Sequence[Input]) -> Iterator[Result]:
    """Apply a task to each input in this process."""
    return map(task, inputs)


def no_watch(step: str, done: int, total: int, result: PieceCounts | BuiltShard) -> None:
    """Ignore progress."""


def with_progress(
    mapper: Mapper,
    watch: Watch,
    step: str,
    task: Callable[[Input], Result],
    inputs: Sequence[Input],
) -> list[Result]:
    """Apply a task to inputs and report progress; return the results in order of the inputs."""
    found: dict[int, Result] = {}
    for result in mapper(task, inputs):
        found[result.number] = result
        watch(step, len(found), len(inputs), result)
    return [found[each.number] for each in inputs]


@dataclass(frozen=True, slots=True)
class CorpusJob:
    """Output folder and inputs of a corpus build; equal jobs read the same documents.

    Attributes:
        folder: Folder of the corpus, shared by all workers; its name identifies the documents.
        cache: Folder for parsed docstrings, shared by all workers.
        settings: The ``CorpusConfig`` as JSON.
        identity: Identity of each source, as JSON.
    """

    folder: str
    cache: str
    settings: str
    identity: str

    @property
    def config(self) -> CorpusConfig:
        """The settings of the corpus."""
        return CorpusConfig.model_validate_json(self.settings)

    def sources(self) -> tuple[Documents, ...]:
        """Return its sources; a worker opens them once."""
        return _sources(self)


def _together(spans: Iterable[Span], size: int) -> Iterator[tuple[Span, ...]]:
    """Yield runs of spans, each as large as possible without exceeding ``size``."""
    held: list[Span] = []
    total = 0
    for span in spans:
        if held and total + span.size > size:
            yield tuple(held)
            held, total = [], 0
        held.append(span)
        total += span.size
    if held:
        yield tuple(held)


@lru_cache(maxsize=2)
def _sources(job: CorpusJob) -> tuple[Documents, ...]:
    return tuple(open_documents(spec, Path(job.cache)) for spec in job.config.specs)
