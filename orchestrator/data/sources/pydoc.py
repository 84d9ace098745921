"""``builtin:pydoc``: docstrings of the installed libraries, parsed once and cached as Parquet.

Only as many files are parsed as a cap needs. Libraries share a cap equally; what a small one cannot
fill goes to the others. A second request with the same library versions reads the cache.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from orchestrator.data.cache import cached_table
from orchestrator.data.sources.docstrings import Docstring, read_docstrings
from orchestrator.data.sources.libraries import (
    Library,
    find_library,
    list_files,
    usual_libraries,
    versions,
)

Record = dict[str, object]

FORMAT = 1  # part of every cache key: raise it when the parser or a task's rule changes
COLUMNS = ["library", "label", "file", *Docstring._fields]


@dataclass
class Shelf:
    """Some files of one library, read on demand.

    Attributes:
        library: The library.
        prefixes: Relative folders or files that belong to the shelf.
        label: What its documents are called in a task.
        rejected: Number of files that could not be read, by reason.
    """

    library: Library
    prefixes: tuple[str, ...] = ("",)
    label: str = ""
    rejected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._records = self._read()

    def take(self, count: int, seen: set[str]) -> list[Record]:
        """Return at most ``count`` more records whose text is not in ``seen``, and add it."""
        taken: list[Record] = []
        while len(taken) < count and (record := next(self._records, None)) is not None:
            if record["text"] not in seen:
                seen.add(str(record["text"]))
                taken.append(record)
        return taken

    def _read(self) -> Iterator[Record]:
        for file in list_files(self.library, self.prefixes):
            found, reason = read_docstrings(self.library.root / file, self.library.module(file))
            if reason is not None:
                self.rejected[reason] += 1
            origin: Record = {"library": self.library.name, "label": self.label, "file": file}
            yield from (origin | document._asdict() for document in found)


def fill(shelves: Sequence[Shelf], limit: int | None) -> list[Record]:
    """Take ``limit`` records in equal shares; larger shelves make up for smaller ones."""
    seen: set[str] = set()
    records: list[Record] = []
    active = list(shelves)
    while active and (limit is None or len(records) < limit):
        share = 1 << 62 if limit is None else -(-(limit - len(records)) // len(active))
        still_active = []
        for shelf in active:
            room = share if limit is None else min(share, limit - len(records))
            taken = shelf.take(room, seen)
            records.extend(taken)
            if len(taken) == room:
                still_active.append(shelf)
        active = still_active
    return records


def to_frame(records: Sequence[Record], shelves: Iterable[Shelf]) -> pd.DataFrame:
    """Return records as a table.

    Returns:
        One row per docstring, columns as in :class:`Docstring` and library, label, file;
        ``attrs["rejected"]`` counts the files of the shelves that could not be read.
    """
    frame = pd.DataFrame.from_records(records, columns=COLUMNS)
    frame = frame.astype({"returns": "boolean", "raises": "boolean"})
    frame.attrs["rejected"] = dict(sum((shelf.rejected for shelf in shelves), Counter()))
    return frame


def corpus_identity(limit: int | None, libraries: Sequence[str] | None) -> dict[str, object]:
    """Return what decides the documents of the corpus: the cap and the versions.

    Args:
        limit: Number of documents; None takes all there are.
        libraries: Import names; None takes the usual ones.

    Raises:
        InputError: A library is not installed.
    """
    return {"format": FORMAT, "limit": limit, "versions": versions(_libraries(libraries))}


def corpus_records(
    limit: int | None = None,
    libraries: Sequence[str] | None = None,
    cache: Path | None = None,
) -> pd.DataFrame:
    """Return the documents of the corpus, the libraries mixed.

    Args:
        limit: Number of documents; None takes all there are.
        libraries: Import names; None takes the usual ones.
        cache: Folder of the cache; None takes the user's.

    Raises:
        InputError: A library is not installed.
    """

    def build() -> pd.DataFrame:
        shelves = [Shelf(library) for library in _libraries(libraries)]
        records = fill(shelves, limit)
        records.sort(key=lambda r: hashlib.sha256(str(r["text"]).encode()).digest())
        return to_frame(records, shelves)

    return cached_table("pydoc/corpus", corpus_identity(limit, libraries), build, cache)


def _libraries(names: Sequence[str] | None) -> list[Library]:
    return usual_libraries() if names is None else [find_library(name) for name in names]
