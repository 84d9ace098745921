"""``builtin:pydoc`` and ``builtin:pydoc_pairs``: docstrings of the installed libraries.

Only as many files are parsed as a cap needs. Libraries share a cap equally; what a small one cannot
fill goes to the others. Tables are cached as Parquet, written atomically and rebuilt when damaged:
a second request with the same library versions reads the cache.

A pair is the first paragraph of a docstring and the one after it: two texts that belong together,
for vectors of sentences.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.sources.contents import Entries, Entry, no_media
from orchestrator.data.sources.docstrings import (
    Docstring,
    Library,
    find_library,
    list_files,
    read_docstrings,
    usual_libraries,
    versions,
)
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import StageError
from orchestrator.storage import atomic_write_bytes
from orchestrator.storage.uris import cache_folder

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, object]

FORMAT = 1  # part of every cache key: raise it when the parser or a task's rule changes
COLUMNS = ["library", "label", "file", *Docstring._fields]
ATTRIBUTES = b"orchestrator"  # key of a table's attributes in the metadata of its file

PAIRS_FORMAT = 1  # part of the identity of pairs
PAIR_ROWS = 4000  # pairs without a cap
PAIR_DOCUMENTS = 20_000  # most docstrings that are read for pairs
MIN_PAIR_WORDS = 4  # of each of the two paragraphs

logger = logging.getLogger(__name__)


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


def to_frame(records: Sequence[Record], shelves: Iterable[Shelf]) -> "pd.DataFrame":
    """Return records as a table.

    Returns:
        One row per docstring, columns as in :class:`Docstring` and library, label, file;
        ``attrs["rejected"]`` counts the files of the shelves that could not be read.
    """
    import pandas as pd

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
) -> "pd.DataFrame":
    """Return the documents of the corpus, the libraries mixed.

    Args:
        limit: Number of documents; None takes all there are.
        libraries: Import names; None takes the usual ones.
        cache: Folder of the cache; None takes the user's.

    Raises:
        InputError: A library is not installed.
    """

    def build() -> "pd.DataFrame":
        shelves = [Shelf(library) for library in _libraries(libraries)]
        records = fill(shelves, limit)
        records.sort(key=lambda r: hashlib.sha256(str(r["text"]).encode()).digest())
        return to_frame(records, shelves)

    return cached_table("pydoc/corpus", corpus_identity(limit, libraries), build, cache)


def pair_entries(spec: DatasetSpec, cache: Path | None) -> Entries:
    """Return as many pairs as the cap says (4,000 without one)."""
    rows = spec.max_rows or PAIR_ROWS
    limit = min(PAIR_DOCUMENTS, 4 * rows)
    pairs: dict[str, str] = {}
    for text in corpus_records(limit, None, cache).text:
        first, _, rest = str(text).partition("\n\n")
        second = rest.partition("\n\n")[0]
        if min(len(first.split()), len(second.split())) >= MIN_PAIR_WORDS:
            pairs.setdefault(first.strip(), second.strip())
    found = [Entry(key=first, text=first, pair=second) for first, second in pairs.items()][:rows]
    identity: dict[str, object] = {
        "builtin": "pydoc_pairs",
        "format": PAIRS_FORMAT,
        "rows": rows,
        "documents": corpus_identity(limit, None),
    }
    return Entries(lambda: identity, found, no_media)


def cached_table(
    name: str,
    request: dict[str, object],
    build: Callable[[], "pd.DataFrame"],
    cache: Path | None,
) -> "pd.DataFrame":
    """Return a table from the cache, or build it and keep it there.

    Args:
        name: Folder and beginning of the file name.
        request: Everything that decides the table, JSON-able.
        build: Makes the table; its ``attrs`` (JSON-able) are stored.
        cache: Folder of the cache; None takes the user's.
    """
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
    path = (cache or cache_folder()) / f"{name}-{digest}.parquet"
    frame = read_table(path)
    if frame is None:
        frame = build()
        write_table(path, frame)
        logger.info("event=table_cached name=%s rows=%d", name, len(frame))
    return frame


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table and its ``attrs`` (JSON-able); a cache that cannot be written is left out."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    attributes = {**(table.schema.metadata or {}), ATTRIBUTES: json.dumps(frame.attrs).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(attributes), sink, compression="zstd")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, sink.getvalue().to_pybytes())
    except (OSError, StageError) as error:
        logger.warning("event=cache_not_written path=%s reason=%r", path, str(error))


def read_table(path: Path) -> "pd.DataFrame | None":
    """Read a table with its ``attrs``; None where there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        frame: pd.DataFrame = table.to_pandas()
        frame.attrs = json.loads((table.schema.metadata or {})[ATTRIBUTES])
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        logger.warning("event=damaged_cache_rebuilt path=%s reason=%r", path, str(error))
        return None
    return frame


def _libraries(names: Sequence[str] | None) -> list[Library]:
    return usual_libraries() if names is None else [find_library(name) for name in names]
