"""Pieces: what one shard is made of. Which there are depends on the sources and their size alone.

A piece is one or more whole spans of one source: a range of a large file, or many small files. So
nobody has to agree with anybody about borders, pieces can be made in any order and by any number of
workers, and making one again gives the same shard.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from orchestrator.data.sources.contents import Documents, Span


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive spans of one source.

    Attributes:
        source: number of the source.
        spans: its spans.
        limit: read only so many documents, where a cap of the source ends in this piece.
    """

    source: int
    spans: tuple[Span, ...]
    limit: int | None = None

    @property
    def size(self) -> int:
        """Bytes of text, about."""
        return sum(span.size for span in self.spans)

    def capped(self, limit: int) -> "Piece":
        """Return the piece with a limit."""
        return replace(self, limit=limit)

    def documents(self, sources: Sequence[Documents], rejected: Counter[str]) -> Iterator[str]:
        """Yield its documents; counts what is left out by reason."""
        read = sources[self.source].read
        return islice((t for span in self.spans for t in read(span, rejected)), self.limit)

    def as_json(self) -> dict[str, Any]:
        """Return JSON data."""
        spans = [list(span) for span in self.spans]
        return {"source": self.source, "spans": spans, "limit": self.limit}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Piece":
        """Return what ``as_json`` stored."""
        spans = tuple(Span(*span) for span in stored["spans"])
        return cls(stored["source"], spans, stored["limit"])


def divide(source: int, documents: Documents, size: int) -> list[Piece]:
    """Divide a source into pieces of about ``size`` bytes; at least one, which may be empty."""
    pieces = [Piece(source, spans) for spans in _together(documents.divide(size), size)]
    return pieces or [Piece(source, ())]


def _together(spans: Iterable[Span], size: int) -> Iterator[tuple[Span, ...]]:
    """Yield runs of spans that are as large as they can be without exceeding ``size``."""
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
