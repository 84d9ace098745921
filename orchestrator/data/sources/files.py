"""``files:``: a file, a folder or a pattern (``*``, ``?``, ``[...]``, ``**``) of files.

Formats: JSONL, TSV, CSV, Parquet, CoNLL, plain text. A folder with ``train.*`` is a data set with
splits (``validation``, ``valid``, ``val`` or ``dev``, and ``test``); a corpus is then read from
train alone. Any other folder, and a pattern, is all its files in the order of their names.
``labels.txt`` beside the files names the labels 0, 1, ... line by line.

What tells files from others: their bytes, or a sample of them where there are very many.
"""

import glob
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.config import did_you_mean
from orchestrator.data.rows.labelled import Table, Tables
from orchestrator.data.rows.labels import LabelForm
from orchestrator.data.rows.rows import Reader
from orchestrator.data.sources.contents import (
    TEXT_COLUMNS,
    Documents,
    Span,
    find_column,
    missing_column,
    usable_text,
)
from orchestrator.data.sources.formats import (
    JSON,
    PARQUET,
    PLAIN_TEXT,
    READERS,
    Row,
    read_plain,
    read_rows,
)
from orchestrator.data.sources.lines import WHOLE, Range, is_compressed, read_lines, suffix_of
from orchestrator.data.sources.media_rows import (
    folder_records,
    kind_of_file,
    media_files,
    media_reader,
)
from orchestrator.data.sources.parquet import open_parquet, read_columns
from orchestrator.data.sources.ranges import cut_file
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

HASHED_BYTES = 1 << 30  # of all files together; more are sampled
WINDOWS = 4  # per file: first and last bytes, and two in between
WINDOW_BYTES = 1 << 16


def fingerprint(files: Sequence[Path]) -> str:
    """Return the SHA-256 over formats, sizes and contents of files, in their order.

    Up to 1 GiB in all, every byte counts. Beyond, four windows of each file, and when the file was
    last changed; so a copy of very many files with other times counts as another source.

    Raises:
        InputError: A file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        sizes = [path.stat().st_size for path in files]
        sampled = sum(sizes) > HASHED_BYTES
        for path, size in zip(files, sizes, strict=True):
            format_ = f"{suffix_of(path)} {is_compressed(path)}"
            content = _sampled(path, size) if sampled else _whole(path)
            digest.update(f"{format_} {size} {content}\n".encode())
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    return digest.hexdigest()


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sampled(path: Path, size: int) -> str:
    digest = hashlib.sha256(str(path.stat().st_mtime_ns).encode())
    with path.open("rb") as file:
        for number in range(WINDOWS):
            file.seek(number * max(size - WINDOW_BYTES, 0) // (WINDOWS - 1))
            digest.update(file.read(WINDOW_BYTES))
    return digest.hexdigest()


SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
LABEL_NAMES = "labels.txt"


def find_files(spec: DatasetSpec, labelled: bool = False) -> dict[str, list[Path]]:
    """Return the files of each split; a source without splits is all train.

    Args:
        spec: the place.
        labelled: whether rows are wanted: then a ``.json`` file is a table too.

    Raises:
        InputError: Nothing is there, or nothing of a readable format.
    """
    place = Path(spec.location).expanduser()
    if not place.exists() and glob.has_magic(spec.location):
        return {"train": _matching(spec, place)}
    if not place.exists():
        raise InputError(f"{spec.source}: {place} does not exist. {_neighbours(place)}")
    readers = {*READERS, JSON} if labelled else {*READERS}
    if place.is_file():
        if suffix_of(place) not in readers:
            raise InputError(f"{spec.source}: {_unreadable(place)}")
        return {"train": [place]}
    files = sorted(f for f in place.rglob("*") if f.is_file() and not f.name.startswith("."))
    readable = [f for f in files if suffix_of(f) in READERS and f.name != LABEL_NAMES]
    if labelled:  # of JSON only files called after a split: others may be anything
        named = [f for f in files if suffix_of(f) == JSON and _split_of(f) is not None]
        readable = readable or named
    if not readable:
        media = [f for f in files if kind_of_file(f.name) is not None]
        shown = _unreadable((media or files)[0]) if files else "the folder is empty."
        raise InputError(f"{spec.source}: {shown}")
    return _split_files(place, readable) or {"train": readable}


def _matching(spec: DatasetSpec, place: Path) -> list[Path]:
    """Return the files that a pattern names."""
    base = _base(place)
    found = sorted(base.glob(str(place.relative_to(base))))
    shown = [file for file in found if file.is_file() and not file.name.startswith(".")]
    files = [file for file in shown if file.name != LABEL_NAMES]
    if not files:
        raise InputError(f"{spec.source}: no file matches {place}.")
    unreadable = [file for file in files if suffix_of(file) not in READERS]
    if unreadable:
        raise InputError(f"{spec.source}: {_unreadable(unreadable[0])}")
    return files


def _split_files(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Return the files named after splits; empty without a train file."""
    splits = {f: _split_of(f) for f in files if f.parent == folder}
    found = {split: [f for f, mine in splits.items() if mine == split] for split in SPLIT_NAMES}
    return {split: part for split, part in found.items() if part} if found["train"] else {}


def _split_of(file: Path) -> str | None:
    """Return the split that a file is called after; of SQuAD, ``train-v2.0.json``."""
    stem = file.name.partition(".")[0].lower()
    if suffix_of(file) == JSON:
        stem = stem.partition("-v")[0]
    return next((split for split, names in SPLIT_NAMES.items() if stem in names), None)


def _neighbours(place: Path) -> str:
    parent = next(folder for folder in (*place.parents, Path()) if folder.is_dir())
    missing = place.relative_to(parent).parts[0] if place.is_relative_to(parent) else place.name
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    return did_you_mean(missing, names, f"In {parent}") or f"{parent} is empty."


def _unreadable(path: Path) -> str:
    formats = ", ".join(suffix for suffix in READERS)
    if kind_of_file(path.name) is not None:
        return (
            f"{path.name} is an image or a sound. Samples of type masked_patches, image_text and "
            f"transcripts read these; corpora and labelled rows are text ({formats})."
        )
    return f"{path.name} is of no format that can be read. Use {formats} (each also as .gz)."


def file_documents(spec: DatasetSpec) -> Documents:
    """Find the documents of files.

    Raises:
        InputError: Nothing readable is there.
    """
    files = find_files(spec)["train"]
    base = _base(Path(spec.location).expanduser())

    def identify() -> dict[str, object]:
        return {
            "files": fingerprint(files),
            "text_column": spec.text_column,
            "document": spec.document,
            "limit": spec.max_documents,
        }

    def divide(size: int) -> list[Span]:
        return [
            Span(path.relative_to(base).as_posix(), *part)
            for path in files
            for part in cut_file(path, spec.document, size)
        ]

    def read(span: Span, rejected: Counter[str]) -> Iterator[str]:
        path = base / span.place
        within = WHOLE if is_compressed(path) else (span.start, span.stop)
        texts = (usable_text(text, rejected) for text in _texts(spec, path, rejected, within))
        return (text for text in texts if text is not None)

    return Documents(identify, divide, read, spec.max_documents)


def _base(place: Path) -> Path:
    """Return the folder that the places of spans are relative to."""
    if place.is_dir():
        return place
    while glob.has_magic(str(place.parent)):
        place = place.parent
    return place.parent


def _texts(
    spec: DatasetSpec, path: Path, rejected: Counter[str], within: Range
) -> Iterator[object]:
    """Yield the text field of each record, usable or not."""
    suffix = suffix_of(path)
    if suffix in PLAIN_TEXT:
        return iter(read_plain(path, spec.document, within))
    column = _text_column(spec, path)
    if suffix == PARQUET:
        return (row[column] for row in read_columns(path, [column], rejected, within))
    return (row.get(column) for row in read_rows(path, rejected, within))


def _text_column(spec: DatasetSpec, path: Path) -> str:
    """Return the column of the text, which the first row of a file decides for all its ranges."""
    if suffix_of(path) == PARQUET:
        with open_parquet(path) as file:
            names: Iterable[str] = file.schema_arrow.names
    else:
        names = next(read_rows(path, Counter()), {})
    column = find_column(spec.text_column, TEXT_COLUMNS, names, "text", path) if names else ""
    if column is None:
        raise InputError(missing_column("text_column", TEXT_COLUMNS, names, path))
    return column


def read_tables(spec: DatasetSpec, form: LabelForm) -> Tables:
    """Read labelled rows.

    Raises:
        InputError: Nothing readable is there, or a column is missing.
    """
    folder = Path(spec.location).expanduser()
    if media := media_only(folder):
        return _media_tables(spec, form, folder, media)
    files = find_files(spec, labelled=True)
    rejected: Counter[str] = Counter()
    splits: dict[str, Table] = {}
    for split, paths in files.items():
        splits[split] = Table()
        for path in paths:
            rows = read_rows(path, rejected)
            fill_table(spec, form, splits[split], rows, path, rejected)
    first = files["train"][0]
    name = first.parent.name if len(files) > 1 else first.name.partition(".")[0]
    return Tables(name, splits, _label_names(first.parent / LABEL_NAMES), rejected)


def media_only(folder: Path) -> list[Path]:
    """Return the images and sounds of a folder; none of a file, or where it has a table."""
    if not folder.is_dir():
        return []
    tables = (suffix for suffix in READERS if suffix not in PLAIN_TEXT)
    if any(next(folder.rglob(f"*{suffix}"), None) is not None for suffix in tables):
        return []
    return media_files(folder)


def _media_tables(spec: DatasetSpec, form: LabelForm, folder: Path, files: list[Path]) -> Tables:
    """Read a folder of images or sounds, with subfolders of splits or without."""
    if spec.slice_column is not None:
        raise InputError(
            f"{spec.source}: slice_column: a folder of images or sounds has no columns. Add a "
            "table with path, label and the slice of each."
        )
    aliases = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    places = {entry: aliases.get(entry.name.lower()) for entry in folder.iterdir()}
    if "train" not in places.values():
        places = {folder: "train"}
    rejected: Counter[str] = Counter()
    splits: dict[str, Table] = {}
    for place, split in sorted(places.items()):
        mine = [file for file in files if file.is_relative_to(place)]
        if split is not None and mine:
            found = folder_records(spec, form, place, mine, rejected)
            splits.setdefault(split, Table()).records.extend(found)
    if "train" not in splits:
        raise InputError(f"{spec.source}: no images or sounds in train.")
    return Tables(folder.name, splits, _label_names(folder / LABEL_NAMES), rejected)


def _label_names(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    return tuple(line.strip() for line in read_lines(path) if line.strip())


def fill_table(
    spec: DatasetSpec,
    form: LabelForm,
    table: Table,
    rows: Iterable[Row],
    path: Path,
    rejected: Counter[str],
) -> None:
    """Append labelled rows to a table; rows without text or label are counted and left out.

    Raises:
        InputError: A column for the text, the label or the named slice is missing.
    """
    read: Reader | None = None
    column = spec.slice_column
    for row in rows:
        read = read or media_reader(spec, form, row, path) or form.reader(spec, row, path)
        record = read(row, rejected)
        if record is None:
            continue
        if column is not None:
            if row.get(column) in (None, ""):
                raise InputError(
                    f"{path}: slice_column: a row has nothing in {column!r}. "
                    f"{did_you_mean(column, list(row), 'Its columns')}"
                )
            record = replace(record, slice=str(row[column]))
        table.records.append(record)
