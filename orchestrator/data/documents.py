"""``open_documents``: the documents of any corpus, what identifies them, and how they are divided.

A source is a sequence of spans: a range of bytes of a file that begins and ends at the border of a
record, some row groups of a Parquet file, a run of rows of a table. How it is divided depends on
the source and the size asked for, never on who reads; every document is in exactly one span, and
the spans one after the other are the whole source in its order.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

UNDIVIDED = sys.maxsize


class Span(NamedTuple):
    """A part of a source that is read by itself.

    Attributes:
        place: file, relative to the source; empty where the source is one table.
        start: first byte, row group or row.
        stop: the one after the last.
        size: bytes of text, about.
    """

    place: str
    start: int
    stop: int
    size: int


@dataclass
class Documents:
    """Documents that can be read more than once, whole or span by span.

    Attributes:
        identify: returns the identity.
        divide: returns the spans, each of about this many bytes or one document.
        read: yields the documents of a span and counts what it leaves out.
        limit: read at most so many documents.
        rejected: what the last reading of everything left out, by reason.
    """

    identify: Callable[[], dict[str, object]]
    divide: Callable[[int], list[Span]]
    read: Callable[[Span, Counter[str]], Iterator[str]]
    limit: int | None = None
    rejected: Counter[str] = field(default_factory=Counter)

    @cached_property
    def identity(self) -> dict[str, object]:
        """JSON-able; equal when and only when the documents are equal. May read the source."""
        return self.identify()

    def __iter__(self) -> Iterator[str]:
        self.rejected.clear()
        spans = self.divide(UNDIVIDED)
        return islice((t for span in spans for t in self.read(span, self.rejected)), self.limit)


def open_documents(spec: DatasetSpec, cache: Path | None = None) -> Documents:
    """Find the documents of a corpus; reads none of them.

    Args:
        spec: what to read.
        cache: folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: the source is missing or is no corpus.
    """
    if spec.source == "builtin:pydoc":
        return _pydoc(spec, cache)
    if spec.scheme == "files":
        from orchestrator.data.sources.files import file_documents

        return file_documents(spec)
    if spec.scheme == "hf":
        from orchestrator.data.sources.hub import hub_documents

        return hub_documents(spec)
    raise InputError(f"{spec.source!r} is no corpus. Use builtin:pydoc, files:<path> or hf:<id>.")


def iter_documents(spec: DatasetSpec, cache: Path | None = None) -> Iterator[str]:
    """Yield the raw text documents of a corpus.

    Raises:
        InputError: the source is missing, is no corpus, or a file cannot be read.
    """
    return iter(open_documents(spec, cache))


def _pydoc(spec: DatasetSpec, cache: Path | None) -> Documents:
    from orchestrator.data.sources.pydoc import corpus_identity, corpus_records

    def divide(size: int) -> list[Span]:
        text = corpus_records(spec.max_documents, spec.libraries, cache).text
        ends = np.cumsum([0, *text.str.len()])
        owner = ends[:-1] // size
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(text)]
        return [Span("", a, b, int(ends[b] - ends[a])) for a, b in pairwise(cuts)]

    def read(span: Span, rejected: Counter[str]) -> Iterator[str]:
        frame = corpus_records(spec.max_documents, spec.libraries, cache)
        if span.start == 0:
            rejected.update(frame.attrs["rejected"])
        yield from frame.text.iloc[span.start : span.stop]

    return Documents(lambda: corpus_identity(spec.max_documents, spec.libraries), divide, read)
