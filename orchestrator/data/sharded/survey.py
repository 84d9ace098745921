"""The first reading: how many documents there are, which are held out, what a tokenizer reads.

Nothing of it is kept in memory: a piece leaves its counts and the least and greatest place of its
documents in the order of the seed. A document is held out when the hash of its text is small, so
that everybody decides alike without asking; the one with the least place always is and the one with
the greatest never, so that both splits have one.

A cap counts documents in the order of the source, so pieces of a capped source are read one after
the other, up to the cap.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.data.rows.splitting import rank
from orchestrator.data.sharded.mapping import Mapper, Row, Site, Watch, watched
from orchestrator.data.sharded.pieces import Piece, divide
from orchestrator.data.sources.contents import Documents
from orchestrator.data.spec import CorpusConfig
from orchestrator.errors import InputError

TOKENIZER_CHARACTERS = 50_000_000  # a tokenizer learns no more from more text, but takes longer
STEP = "reading"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Which documents are for validation: a share by hash, never none and never all.

    Attributes:
        seed: of the order.
        share: of the documents.
        least: place of the first document in the order, in hexadecimal.
        greatest: place of the last one.
    """

    seed: int
    share: float
    least: str
    greatest: str

    def has(self, text: str) -> bool:
        """Tell whether a document is held out."""
        place = rank(self.seed, text)
        if place.hex() in (self.least, self.greatest):
            return place.hex() == self.least
        return int.from_bytes(place[:8], "big") < self.share * 2**64


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first reading found.

    Attributes:
        pieces: one a shard, in the order of the sources.
        documents: number of usable documents of each piece.
        held_out: which of them are for validation.
    """

    pieces: tuple[Piece, ...]
    documents: tuple[int, ...]
    held_out: HeldOut


def survey(site: Site, mapper: Mapper, watch: Watch) -> Survey:
    """Read everything once.

    Raises:
        InputError: fewer than two documents differ, or a source cannot be read.
    """
    config, sources = site.config, site.sources()
    divided = [divide(n, source, config.shard_bytes) for n, source in enumerate(sources)]
    task = partial(read_piece, site=site)
    whole = [p for source, pieces in zip(sources, divided, strict=True)
             for p in pieces if source.limit is None]  # fmt: skip
    rows = [{"number": number, "piece": piece.as_json()} for number, piece in enumerate(whole)]
    results = iter(watched(mapper, watch, STEP, task, rows) if rows else [])
    found: list[tuple[Piece, Row]] = []
    for source, pieces in zip(sources, divided, strict=True):
        if source.limit is None:
            found += [(piece, next(results)) for piece in pieces]
        else:
            found += _up_to(source.limit, pieces, task)
    return Survey(
        pieces=tuple(piece for piece, _ in found),
        documents=tuple(result["documents"] for _, result in found),
        held_out=_held_out(config, [result for _, result in found]),
    )


def read_piece(row: Row, site: Site) -> Row:
    """Read a piece: number of documents, least and greatest place, what is left out by reason."""
    seed = site.config.specs[0].seed
    rejected: Counter[str] = Counter()
    documents, least, greatest = 0, b"\xff" * 16, b""
    for text in Piece.from_json(row["piece"]).documents(site.sources(), rejected):
        place = rank(seed, text)
        least, greatest = min(least, place), max(greatest, place)
        documents += 1
    return {
        "number": row["number"],
        "documents": documents,
        "least": least.hex(),
        "greatest": greatest.hex(),
        "rejected": dict(rejected),
    }


def _up_to(limit: int, pieces: Sequence[Piece], task: "partial[Row]") -> list[tuple[Piece, Row]]:
    """Read pieces one after the other until there are ``limit`` documents."""
    found: list[tuple[Piece, Row]] = []
    for number, piece in enumerate(pieces):
        capped = piece.capped(limit)
        result = task({"number": number, "piece": capped.as_json()})
        limit -= result["documents"]
        found.append((capped if limit <= 0 else piece, result))
        if limit <= 0:
            break
    return found


def _held_out(config: CorpusConfig, results: Sequence[Row]) -> HeldOut:
    spec = config.specs[0]
    least = min(result["least"] for result in results)
    greatest = max(result["greatest"] for result in results)
    if least >= greatest:
        left_out = sum((Counter(result["rejected"]) for result in results), Counter[str]())
        reasons = ", ".join(f"{n} × {reason}" for reason, n in left_out.items())
        raise InputError(
            f"{config.title}: needs at least two different documents, one to learn from and one "
            f"for validation; left out: {reasons or 'nothing'}."
        )
    return HeldOut(spec.seed, spec.validation_fraction, least, greatest)


class Sample:
    """Documents for training a tokenizer: the beginning of each piece, read anew every time.

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
