"""The survey of a corpus before its build: counts, held-out documents, tokenizer sample.

Documents are not held in memory: a piece leaves its counts and the smallest and largest rank of its
documents in the order of the seed. A document is held out if the hash of its text is small, so all
workers decide the same without communication; the one with the smallest rank always is and the one
with the largest never, so that both splits have at least one.

A cap counts documents in the order of the source, so pieces of a capped source are read one after
the other, up to the cap.

The estimate for ``--check`` uses the sizes of the files and the first documents alone.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from orchestrator.data.rows.splitting import rank
from orchestrator.data.sharded.contracts import (
    CorpusJob,
    HeldOut,
    Mapper,
    Piece,
    PieceCounts,
    PieceTask,
    Watch,
    divide,
    with_progress,
)
from orchestrator.data.sources.contents import UNDIVIDED, Documents
from orchestrator.data.sources.lines import REPAIRED
from orchestrator.data.sources.opening import open_documents
from orchestrator.data.spec import CorpusConfig, DatasetSpec
from orchestrator.errors import InputError

TOKENIZER_CHARACTERS = 50_000_000  # more text takes longer and does not improve a tokenizer
STEP = "reading"

# The estimate reads the first documents of a source up to these bounds.
PROBED_DOCUMENTS = 200
PROBED_CHARACTERS = 1 << 20
CHARACTERS_PER_TOKEN = 4  # English text, usual vocabulary size


@dataclass(frozen=True, slots=True)
class Survey:
    """Result of the survey.

    Attributes:
        pieces: One per shard, in the order of the sources.
        documents: Number of usable documents of each piece.
        held_out: The rule for validation documents.
    """

    pieces: tuple[Piece, ...]
    documents: tuple[int, ...]
    held_out: HeldOut


def survey(job: CorpusJob, mapper: Mapper, watch: Watch) -> Survey:
    """Read everything once.

    Raises:
        InputError: Fewer than two documents differ, or a source cannot be read.
    """
    config, sources = job.config, job.sources()
    divided = [divide(n, source, config.shard_bytes) for n, source in enumerate(sources)]
    task = partial(read_piece, job=job)
    whole = [p for source, pieces in zip(sources, divided, strict=True)
             for p in pieces if source.limit is None]  # fmt: skip
    tasks = [PieceTask(number=number, piece=piece) for number, piece in enumerate(whole)]
    results = iter(with_progress(mapper, watch, STEP, task, tasks) if tasks else [])
    found: list[tuple[Piece, PieceCounts]] = []
    for source, pieces in zip(sources, divided, strict=True):
        if source.limit is None:
            found += [(piece, next(results)) for piece in pieces]
        else:
            found += _up_to(source.limit, pieces, task)
    return Survey(
        pieces=tuple(piece for piece, _ in found),
        documents=tuple(result.documents for _, result in found),
        held_out=_held_out(config, [result for _, result in found]),
    )


def read_piece(task: PieceTask, job: CorpusJob) -> PieceCounts:
    """Read a piece and count its documents."""
    seed = job.config.specs[0].seed
    rejected: Counter[str] = Counter()
    documents, least, greatest = 0, b"\xff" * 16, b""
    for text in task.piece.documents(job.sources(), rejected):
        place = rank(seed, text)
        least, greatest = min(least, place), max(greatest, place)
        documents += 1
    return PieceCounts(
        number=task.number,
        documents=documents,
        least=least.hex(),
        greatest=greatest.hex(),
        rejected=dict(rejected),
    )


class Sample:
    """Documents for training a tokenizer: the beginning of each piece, read again on each pass.

    Sources have equal shares, and the pieces of a source shares by their size. A source that is
    smaller than its share is read whole.
    """

    def __init__(self, found: Survey, sources: Sequence[Documents]) -> None:
        self._sources = sources
        self._pieces = found.pieces
        self._count = sum(found.documents)
        share = TOKENIZER_CHARACTERS // len(sources)
        sizes: Counter[int] = Counter()
        for piece in found.pieces:
            sizes[piece.source] += piece.size
        self._rooms = [-(-share * p.size // max(sizes[p.source], 1)) for p in found.pieces]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for piece, room in zip(self._pieces, self._rooms, strict=True):
            left = room
            for text in piece.documents(self._sources, Counter()):
                if left <= 0:
                    break
                yield text
                left -= len(text)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Approximate size of a source.

    Attributes:
        documents: Number of documents; None if it is unknown before reading.
        size: Bytes of text.
        shards: Number of shards.
    """

    documents: int | None
    size: int | None
    shards: int | None


def describe(config: CorpusConfig) -> dict[str, str]:
    """Return a corpus in words, for ``--check``.

    Raises:
        InputError: A source is missing, or the first document cannot be read.
    """
    found = [estimate(spec, config.shard_bytes) for spec in config.specs]
    size = _sum([each.size for each in found])
    documents = _sum([each.documents for each in found])
    shards = _sum([each.shards for each in found])
    tokenizer = config.tokenizer
    unknown = "not known before it is read"
    return {
        "corpus": config.title,
        "documents": unknown if documents is None else f"about {documents:,}",
        "text": unknown
        if size is None
        else f"about {size:,} bytes, {size // CHARACTERS_PER_TOKEN:,} tokens",
        "shards": f"{f'about {shards:,}' if shards else 'as many as needed'}, each of about "
        f"{config.shard_bytes:,} bytes of text",
        "tokenizer": tokenizer.path or f"{tokenizer.type}, {tokenizer.vocab_size} tokens",
        "blocks": f"{config.block_size} tokens",
    }


def estimate(spec: DatasetSpec, shard_bytes: int) -> Estimate:
    """Estimate one source; reads no more than the first documents of files.

    Raises:
        InputError: The source is missing, or the first document cannot be read.
    """
    documents = open_documents(spec)
    cap = spec.max_documents
    if spec.scheme != "files":
        return Estimate(cap, None, None)
    spans = documents.divide(UNDIVIDED)
    size = sum(span.size for span in spans)
    average = _average(documents)
    count = 0 if average is None else max(1, round(size / average))
    if cap is not None and average is not None and count > cap:
        count, size = cap, round(cap * average)
    return Estimate(count, size, max(1, -(-size // shard_bytes)))


def _up_to(
    limit: int, pieces: Sequence[Piece], task: "partial[PieceCounts]"
) -> list[tuple[Piece, PieceCounts]]:
    """Read pieces one after the other until there are ``limit`` documents."""
    found: list[tuple[Piece, PieceCounts]] = []
    for number, piece in enumerate(pieces):
        capped = piece.capped(limit)
        result = task(PieceTask(number=number, piece=capped))
        limit -= result.documents
        found.append((capped if limit <= 0 else piece, result))
        if limit <= 0:
            break
    return found


def _held_out(config: CorpusConfig, results: Sequence[PieceCounts]) -> HeldOut:
    spec = config.specs[0]
    least = min(result.least for result in results)
    greatest = max(result.greatest for result in results)
    if least >= greatest:
        left_out = sum((Counter(result.rejected) for result in results), Counter[str]())
        left_out.pop(REPAIRED, None)
        reasons = ", ".join(f"{n} × {reason}" for reason, n in left_out.items())
        raise InputError(
            f"{config.title}: needs at least two different documents, one to learn from and one "
            f"for validation; left out: {reasons or 'nothing'}."
        )
    share = spec.validation_fraction
    return HeldOut(seed=spec.seed, share=share, least=least, greatest=greatest)


def _average(documents: Documents) -> float | None:
    """Return the mean number of bytes of the first documents; None without documents."""
    count = total = 0
    for text in islice(documents, PROBED_DOCUMENTS):
        count += 1
        total += len(text.encode()) + 1
        if total > PROBED_CHARACTERS:
            break
    return total / count if count else None


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
