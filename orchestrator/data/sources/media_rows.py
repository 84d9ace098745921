"""Labelled images and sounds: a table of files, or a folder whose subfolders are the classes.

A table has a column of files, relative to the table, and the label. A folder without a table has
its classes as subfolders (below ``train``, ``validation`` and ``test`` where there are splits), or
``name_pattern`` finds the label in the name of each file. The text of a sound may also be in a file
beside it, with the same name and the suffix ``.txt``.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.data.rows.rows import Reader, Record, TableRow
from orchestrator.data.sources.contents import MEDIA_COLUMNS, MEDIA_SUFFIXES, find_column
from orchestrator.data.sources.lines import read_lines, well_formed
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

SIDECAR = ".txt"

Label = Callable[[Path], object]


def kind_of_file(name: object) -> str | None:
    """Return ``picture`` or ``sound`` by the suffix of a file name, else None."""
    suffix = Path(name).suffix.lower() if isinstance(name, str) else ""
    return next((kind for kind, known in MEDIA_SUFFIXES.items() if suffix in known), None)


def media_reader(spec: DatasetSpec, form: LabelForm, row: TableRow, path: Path) -> Reader | None:
    """Return what reads a table of files; None: it is a table of texts.

    Raises:
        InputError: the column that the data set names is not there, or there is no label.
    """
    column = find_column(spec.media_column, MEDIA_COLUMNS, row, "file", path)
    if column is None:
        return None
    kind = kind_of_file(row.get(column))
    if kind is None:
        if spec.media_column is None:
            return None
        known = ", ".join(sorted(suffix for known in MEDIA_SUFFIXES.values() for suffix in known))
        raise InputError(
            f"{path}: column {column!r} has {row.get(column)!r}, not a file of an image or a sound "
            f"({known})."
        )
    if spec.media_column is None and any(name in row for name in form.text_columns):
        return None  # the file only says where a text is from
    label = form.require("label_column", spec.label_column, form.media_label_columns, row, path)

    def read(row: TableRow, rejected: Counter[str]) -> Record | None:
        name = row.get(column)
        if kind_of_file(name) != kind:
            rejected[f"not a {kind}"] += 1
            return None
        return _record(form, path.parent / str(name), kind, row.get(label), rejected)

    return read


def media_files(folder: Path) -> list[Path]:
    """Return the images and sounds below a folder, in the order of their paths."""
    found = (file for file in folder.rglob("*") if not file.name.startswith("."))
    return sorted(file for file in found if kind_of_file(file.name) is not None)


def folder_records(
    spec: DatasetSpec, form: LabelForm, folder: Path, files: list[Path], rejected: Counter[str]
) -> list[Record]:
    """Return the images or sounds of one split.

    Raises:
        InputError: both kinds are there, or nothing says what their labels are.
    """
    kinds = {kind_of_file(file.name) for file in files}
    if len(kinds) > 1:
        raise InputError(f"{spec.source}: images and sounds are mixed. Give them apart.")
    (kind,) = kinds
    label = _labeller(spec, form, folder, files)
    records = [_record(form, file, str(kind), label(file), rejected) for file in files]
    return [record for record in records if record is not None]


def _labeller(spec: DatasetSpec, form: LabelForm, folder: Path, files: list[Path]) -> Label:
    """Return what says the label of a file."""
    if spec.name_pattern is not None:
        pattern = re.compile(spec.name_pattern)

        def by_name(file: Path) -> object:
            match = pattern.search(file.name)
            return None if match is None else match.group(1)

        return by_name
    if form is not CLASSES and any(file.with_suffix(SIDECAR).is_file() for file in files):
        return lambda file: _text_of(file.with_suffix(SIDECAR))
    if form is CLASSES and all(len(file.relative_to(folder).parts) > 1 for file in files):
        return lambda file: file.relative_to(folder).parts[0]
    how = "one subfolder per class" if form is CLASSES else "a .txt file beside each file"
    raise InputError(
        f"{spec.source}: {len(files)} files without labels, such as {files[0].name}. Use {how}, a "
        "table with the columns path and label, or name_pattern."
    )


def _text_of(path: Path) -> str | None:
    return well_formed("".join(read_lines(path))) if path.is_file() else None


def _record(
    form: LabelForm, file: Path, kind: str, label: object, rejected: Counter[str]
) -> Record | None:
    """Read one file and its label."""
    found = form.label(label)
    if isinstance(found, str):
        rejected[found] += 1
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    if not content:
        rejected[f"empty {kind}"] += 1
        return None
    return Record(found, picture=content) if kind == "picture" else Record(found, sound=content)
