"""Pieces: the input of one shard. They depend on the sources and their size alone.

A piece is one or more whole spans of one source: a range of a large file, or many small files. So
workers need not agree about borders, pieces can be processed in any order and by any number of
workers, and processing one again gives the same shard.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from orchestrator.config import StrictModel
from orchestrator.data.sources.contents import Documents, Span


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
