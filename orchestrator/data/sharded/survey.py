"""The survey: counts of documents, the held-out ones, and the sample for the tokenizer.

Documents are not held in memory: a piece leaves its counts and the smallest and largest rank of its
documents in the order of the seed. A document is held out if the hash of its text is small, so all
workers decide the same without communication; the one with the smallest rank always is and the one
with the largest never, so that both splits have at least one.

A cap counts documents in the order of the source, so pieces of a capped source are read one after
the other, up to the cap.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.data.rows.splitting import rank
from orchestrator.data.sharded.contracts import HeldOut, PieceCounts, PieceTask
from orchestrator.data.sharded.mapping import CorpusJob, Mapper, Watch, with_progress
from orchestrator.data.sharded.pieces import Piece, divide
from orchestrator.data.sources.contents import Documents
from orchestrator.data.spec import CorpusConfig
from orchestrator.errors import InputError

TOKENIZER_CHARACTERS = 50_000_000  # more text takes longer and does not improve a tokenizer
STEP = "reading"


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
        reasons = ", ".join(f"{n} × {reason}" for reason, n in left_out.items())
        raise InputError(
            f"{config.title}: needs at least two different documents, one to learn from and one "
            f"for validation; left out: {reasons or 'nothing'}."
        )
    share = spec.validation_fraction
    return HeldOut(seed=spec.seed, share=share, least=least, greatest=greatest)


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
