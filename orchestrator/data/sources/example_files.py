"""``files:`` with pictures, sounds or two texts: a table that names them, or a folder of them.

A table (TSV or CSV with a line of column names, JSONL, Parquet) has the text and the file, relative
to the table: ``text<TAB>path``. A folder with ``train.*`` and ``validation.*`` has these splits. A
folder without a table is its pictures or sounds; ``name_pattern`` finds their texts in their names.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.data.sources.contents import (
    MEDIA_COLUMNS,
    MEDIA_SUFFIXES,
    PAIR_COLUMNS,
    TEXT_COLUMNS,
    TRAIN,
    VALIDATION,
    Entries,
    Entry,
    find_column,
    missing_column,
    no_media,
    usable_text,
)
from orchestrator.data.sources.files import LABEL_NAMES, find_files
from orchestrator.data.sources.formats import PLAIN_TEXT, READERS, Row, read_rows
from orchestrator.data.sources.lines import suffix_of
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.storage import sha256_file

TABLES = tuple(suffix for suffix in READERS if suffix not in PLAIN_TEXT)


def file_entries(spec: DatasetSpec, columns: Sequence[str]) -> Entries:
    """Return the examples of a table or a folder.

    Args:
        spec: The place, and the names of columns.
        columns: What each example must have.

    Raises:
        InputError: Nothing readable is there, or a column or the texts are missing.
    """
    media = next((column for column in columns if column in MEDIA_SUFFIXES), None)
    place = Path(spec.location).expanduser()
    rejected: Counter[str] = Counter()
    if media is not None and place.is_dir() and not _tables(place):
        found = list(_folder(spec, place, media, "text" in columns, rejected))
    else:
        found = [
            entry
            for split, paths in find_files(spec).items()
            if split in (TRAIN, VALIDATION)
            for path in paths
            for entry in _table(spec, path, split, columns, media, rejected)
        ]
        if not any(entry.split == VALIDATION for entry in found):
            found = [Entry(e.key, e.text, e.pair, "", e.place) for e in found]
    return Entries(lambda: _identity(found), found, _read if media else no_media, rejected)


def _tables(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if suffix_of(file) in TABLES)
    return [file for file in files if file.name != LABEL_NAMES]


def _folder(
    spec: DatasetSpec, folder: Path, media: str, texts: bool, rejected: Counter[str]
) -> Iterator[Entry]:
    files = sorted(file for file in folder.rglob("*") if suffix_of(file) in MEDIA_SUFFIXES[media])
    if not files:
        shown = ", ".join(sorted(MEDIA_SUFFIXES[media]))
        raise InputError(f"{spec.source}: no {media}s ({shown}) and no table of them.")
    if texts and spec.name_pattern is None:
        raise InputError(
            f"{spec.source}: {len(files)} {media}s without texts. Put a table with the columns "
            "text and path beside them, or give name_pattern."
        )
    pattern = re.compile(spec.name_pattern or "")
    for file in files:
        match = pattern.search(file.name) if texts else None
        text = usable_text(match.group(1), rejected) if match else None
        if texts and match is None:
            rejected["name without a text"] += 1
        if not texts or text is not None:
            yield Entry(str(file.relative_to(folder)), text or "", place=file)


def _table(
    spec: DatasetSpec,
    path: Path,
    split: str,
    columns: Sequence[str],
    media: str | None,
    rejected: Counter[str],
) -> Iterator[Entry]:
    names: dict[str, str] | None = None
    for row in read_rows(path, rejected):
        names = names or _columns(spec, row, path, columns, media)
        values = {what: usable_text(row.get(name), rejected) for what, name in names.items()}
        if None in values.values():
            continue
        text, pair, name = (values.get(each) or "" for each in ("text", "pair", "media"))
        yield Entry(name or f"{text}\x00{pair}", text, pair, split, path.parent / name)


def _columns(
    spec: DatasetSpec, row: Row, path: Path, columns: Sequence[str], media: str | None
) -> dict[str, str]:
    """Return the column of each thing that is read.

    Raises:
        InputError: One is missing.
    """
    wanted = {
        "text": (spec.text_column, TEXT_COLUMNS, "text_column", "text" in columns),
        "pair": (spec.pair_column, PAIR_COLUMNS, "pair_column", "pair" in columns),
        "media": (spec.media_column, MEDIA_COLUMNS, "media_column", media is not None),
    }
    found: dict[str, str] = {}
    for what, (given, usual, option, needed) in wanted.items():
        if not needed:
            continue
        column = find_column(given, usual, row, what, path)
        if column is None:
            raise InputError(missing_column(option, usual, row, path))
        found[what] = column
    return found


def _read(entry: Entry) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: It is not there.
    """
    path: Path = entry.place
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _identity(found: Sequence[Entry]) -> dict[str, object]:
    """Return a hash of all texts and files; a missing file counts as none."""
    digest = hashlib.sha256()
    for entry in found:
        path: Path | None = entry.place
        content = sha256_file(path) if path is not None and path.is_file() else ""
        line = [entry.key, entry.text, entry.pair, entry.split, content]
        digest.update(json.dumps(line).encode())
    return {"examples": digest.hexdigest()}
