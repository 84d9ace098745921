"""The task kind of a file, from its columns and the first labels in it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from orchestrator.data.rows.label_forms import FORMS, NAME_BREAK
from orchestrator.data.rows.labels import CLASSES
from orchestrator.data.sources.files import find_files
from orchestrator.data.sources.formats import CONLL, read_rows, suffix_of
from orchestrator.data.spec import DatasetSpec

SEEN_ROWS = 200
"""Rows that are looked at."""
TAG = re.compile(r"^(O|[BIES]-\S+)$")
Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Detected:
    """A task kind and what it was recognized by."""

    kind: str
    reason: str


def detect_kind(spec: DatasetSpec) -> Detected:
    """Return the kind of the task that a source is for.

    Raises:
        InputError: The file is not there or cannot be read.
    """
    if spec.scheme != "files":
        return Detected("classification", f"the usual kind of {spec.scheme}: sources")
    path = find_files(spec)["train"][0]
    if suffix_of(path) == CONLL:
        return Detected("tags", "a CoNLL file")
    return kind_of_rows(spec, list(islice(read_rows(path, Counter()), SEEN_ROWS)))


def kind_of_rows(spec: DatasetSpec, rows: Sequence[Row]) -> Detected:
    """Return the kind of the task of the first rows of a table."""
    columns = list(rows[0]) if rows else []
    wanted = spec.label_column
    if wanted is None and {"tags", "ner_tags"} & {*columns}:
        return Detected("tags", "a column of tags")
    usual = (*CLASSES.label_columns, *FORMS["regression"].label_columns)
    name = wanted or next((each for each in usual if each in columns), None)
    labels = [row.get(name) for row in rows if row.get(name) is not None] if name else []
    if not labels:
        return Detected("classification", "no label was recognized")
    if _are_tags(spec, rows, name):
        return Detected("tags", f"column {name!r} has a tag for every word")
    return _kind_of_labels(f"column {name!r} has", labels)


def _kind_of_labels(where: str, labels: Sequence[object]) -> Detected:
    """Return the kind of labels that are not tags: several names, numbers, or one class each."""
    cells = [
        label.split(NAME_BREAK) if isinstance(label, str) else _parts(label) for label in labels
    ]
    several = any(
        len(cell) != 1 or isinstance(label, list) for cell, label in zip(cells, labels, strict=True)
    )
    parts = [part for cell in cells for part in cell]
    if parts and all(map(_is_number, parts)) and (several or not all(map(_is_whole, parts))):
        return Detected("regression", f"{where} numbers")
    if several:
        return Detected("multilabel", f"{where} several names per row")
    return Detected("classification", f"{where} one label per row")


def _are_tags(spec: DatasetSpec, rows: Sequence[Row], name: str | None) -> bool:
    """Whether each label is a tag per word of its text, IOB or IOBES."""
    texts = (spec.text_column, *FORMS["tags"].text_columns)
    text = next((each for each in texts if each and each in rows[0]), None)
    if text is None or name is None:
        return False
    found = [(_words(row.get(text)), _words(row.get(name))) for row in rows]
    same = all(len(words) == len(tags) for words, tags in found)
    longer = any(len(tags) > 1 for _, tags in found)
    return same and longer and all(TAG.match(tag) for _, tags in found for tag in tags)


def _words(value: object) -> list[str]:
    return value.split() if isinstance(value, str) else [str(part) for part in _parts(value)]


def _parts(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return str(value).strip().removeprefix("-").isdecimal()
