"""Contents of a source: the documents of a corpus, the entries and the columns of a table.

A corpus is a sequence of spans: a byte range of a file that begins and ends between two records,
some row groups of a Parquet file, a run of rows of a table. The spans depend on the source and on
the requested size, never on the reader; every document is in exactly one span, and the spans in
their order are the whole source.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.config import did_you_mean, nearest
from orchestrator.data.sources.lines import REPAIRED, well_formed
from orchestrator.errors import InputError

UNDIVIDED = sys.maxsize
"""Size of a span that holds a whole file or table."""
TEXT_COLUMNS = ("text", "text_a", "sentence", "content", "document")
PAIR_COLUMNS = ("text_b",)
LABEL_COLUMNS = ("label", "labels", "class")
CHOICE_COLUMNS = ("choices", "endings", "options", "candidates")  # lists of candidates
MEDIA_COLUMNS = ("path", "image", "audio", "file")
MEDIA_SUFFIXES = {
    "picture": frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}),
    "sound": frozenset({".wav", ".flac", ".ogg", ".mp3"}),
}


class Span(NamedTuple):
    """A part of a source that is read by itself.

    Attributes:
        place: File, relative to the source; empty if the source is one table.
        start: First byte, row group or row.
        stop: The one after the last.
        size: Approximate bytes of text.
    """

    place: str
    start: int
    stop: int
    size: int


@dataclass
class Documents:
    """Documents that can be read more than once, whole or span by span.

    Attributes:
        identify: Returns the identity.
        divide: Returns the spans, each of about this many bytes, or of one document.
        read: Yields the documents of a span and counts those it leaves out.
        limit: Maximum number of documents.
        rejected: Number of documents that the last full pass left out, by reason.
    """

    identify: Callable[[], dict[str, object]]
    divide: Callable[[int], list[Span]]
    read: Callable[[Span, Counter[str]], Iterator[str]]
    limit: int | None = None
    rejected: Counter[str] = field(default_factory=Counter)

    @cached_property
    def identity(self) -> dict[str, object]:
        """JSON-able; equal if and only if the documents are equal. May read the source."""
        return self.identify()

    def __iter__(self) -> Iterator[str]:
        self.rejected.clear()
        spans = self.divide(UNDIVIDED)
        return islice((t for span in spans for t in self.read(span, self.rejected)), self.limit)


TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True, slots=True)
class Entry:
    """One example; its picture or sound is not read yet.

    Attributes:
        key: Determines the split: examples with equal keys are in the same one.
        text: Caption, transcription or first text.
        pair: Second text.
        split: Train or validation if the source has splits; else empty.
        place: Location of the picture or sound, in a form of the source.
    """

    key: str
    text: str = ""
    pair: str = ""
    split: str = ""
    place: Any = None


@dataclass
class Entries:
    """The examples of a source.

    Attributes:
        identity: Returns a JSON-able value, equal if and only if the examples are equal; it may
            read all files.
        found: The examples.
        read: Returns the bytes of an example's picture or sound; raises InputError if missing.
        rejected: Number of rows left out so far, by reason.
    """

    identity: Callable[[], dict[str, object]]
    found: list[Entry]
    read: Callable[[Entry], bytes]
    rejected: Counter[str] = field(default_factory=Counter)


def no_media(entry: Entry) -> bytes:
    """Return no bytes, for examples of texts."""
    del entry
    return b""


def find_column(
    wanted: str | None, usual: Iterable[str], columns: Iterable[str], what: str, path: Path
) -> str | None:
    """Return the column to read, or None where none is asked for and no usual one is there.

    Raises:
        InputError: The column that is asked for is not there.
    """
    names = list(columns)
    if wanted is None:
        return next((name for name in usual if name in names), None)
    if wanted not in names:
        raise InputError(
            f"{path}: no column {wanted!r} for the {what}. {did_you_mean(wanted, names, 'Columns')}"
        )
    return wanted


def missing_column(option: str, usual: Iterable[str], row: Iterable[str], path: Path) -> str:
    """Return the message for a table in which no usual column is found."""
    names, wanted = list(row), list(usual)
    near = next((name for name in names if nearest(name, wanted)), None)
    guess = "" if near is None else f" Is it {near!r}?"
    return (
        f"{path}: no column called {', '.join(wanted)}. Name one with {option}.{guess} "
        f"Columns: {', '.join(names)}."
    )


def usable_text(text: object, rejected: Counter[str]) -> str | None:
    """Return a text without outer blanks, or count why it cannot be used; repairs characters."""
    if text is None:
        rejected["text missing"] += 1
    elif not isinstance(text, str):
        rejected["text is not a string"] += 1
    elif not (stripped := text.strip()):
        rejected["empty text"] += 1
    else:
        whole = well_formed(stripped)
        rejected.update([REPAIRED] if whole != stripped else [])
        return whole
    return None
