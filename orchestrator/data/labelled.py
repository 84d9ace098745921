"""Rows as they were read become a task: classes numbered, capped, split, nothing on two sides."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.config import did_you_mean
from orchestrator.data.rows import Rows, TaskData
from orchestrator.data.spec import DatasetSpec
from orchestrator.data.splitting import cap_indices, split_indices
from orchestrator.errors import InputError

logger = logging.getLogger(__name__)

MIN_CLASSES = 2
MIN_ROWS = 3  # of a class on average; a column of numbers or sentences has one
FEW_CLASSES = 50  # so few may be classes however small
HELD_OUT = ("validation", "test")


@dataclass
class Table:
    """Rows of one split as read: texts, second texts or None, and the label as text."""

    texts: list[str] = field(default_factory=list)
    pairs: list[str] | None = None
    labels: list[str] = field(default_factory=list)


@dataclass
class Tables:
    """A labelled source.

    Attributes:
        name: short name of the data set.
        splits: "train", and "validation" and "test" where the source has them.
        label_names: name of each class where the source tells; then labels are "0", "1", ...
        rejected: number of rows left out, by reason.
    """

    name: str
    splits: dict[str, Table]
    label_names: tuple[str, ...] | None = None
    rejected: Counter[str] = field(default_factory=Counter)


def assemble(spec: DatasetSpec, tables: Tables) -> TaskData:
    """Make a task of what was read.

    Splits that the source has are kept; the others are cut from train. A text that is also in a
    held-out split is removed from the splits before it.

    Raises:
        InputError: no rows, fewer than two classes, a label in a held-out split that train does not
            have, or a class that cannot be split.
    """
    for split, table in tables.splits.items():
        if not table.texts:
            raise InputError(f"{spec.source}: no rows in {split}. {left_out(tables.rejected)}")
    values, names = _classes(spec, tables)
    rows = {split: _number(spec, split, table, values) for split, table in tables.splits.items()}
    rejected = Counter(tables.rejected)
    rows = _separate(rows, rejected)
    if rejected:
        logger.warning("event=rows_left_out source=%s reasons=%s", spec.source, dict(rejected))
    if spec.max_rows is not None:
        rows = _cap(rows, spec.max_rows, spec.seed)
    return _complete(spec, tables.name, names, rows, dict(rejected))


def left_out(rejected: Counter[str]) -> str:
    """Return the sentence that says what was left out and why."""
    reasons = ", ".join(f"{count} × {reason}" for reason, count in rejected.items())
    return f"Left out: {reasons or 'nothing'}."


def _classes(spec: DatasetSpec, tables: Tables) -> tuple[list[str], tuple[str, ...]]:
    """Return the label values in class order and the name of each class."""
    labels = tables.splits["train"].labels
    found = set(labels)
    if len(found) > max(FEW_CLASSES, len(labels) // MIN_ROWS):
        raise InputError(
            f"{spec.source}: {len(found)} different labels in {len(labels)} rows, such as "
            f"{labels[0][:40]!r}: these are no classes. Check label_column."
        )
    if tables.label_names is None:
        numeric = all(value.removeprefix("-").isdecimal() for value in found)
        values = sorted(found, key=int) if numeric else sorted(found)
        require_classes(spec, values)
        return values, tuple(values)
    values = [str(number) for number in range(len(tables.label_names))]
    strange = sorted(found - set(values))
    if strange:
        raise InputError(
            f"{spec.source}: label {strange[0]!r} has no name: {len(values)} names are given, for "
            f"labels 0 to {len(values) - 1}."
        )
    require_classes(spec, tables.label_names)
    return values, tables.label_names


def require_classes(spec: DatasetSpec, names: Sequence[str]) -> None:
    """Refuse a task that has nothing to tell apart.

    Raises:
        InputError: there are fewer than two classes.
    """
    if len(names) < MIN_CLASSES:
        shown = ", ".join(map(repr, names)) or "none"
        raise InputError(
            f"{spec.source}: {len(names)} class ({shown}); classification needs at least two. "
            "Check label_column."
        )


def _number(spec: DatasetSpec, split: str, table: Table, values: list[str]) -> Rows:
    numbers = {value: number for number, value in enumerate(values)}
    for value in table.labels:
        if value not in numbers:
            raise InputError(
                f"{spec.source}: label {value!r} occurs in {split} but not in train. "
                f"{did_you_mean(value, values, 'Labels of train')}"
            )
    labels = np.asarray([numbers[value] for value in table.labels], dtype=np.int64)
    return Rows(table.texts, table.pairs, labels)


def _separate(rows: dict[str, Rows], rejected: Counter[str]) -> dict[str, Rows]:
    """Drop repeated rows, and from each split those that are also in a later one."""
    seen: set[str] = set()
    result: dict[str, Rows] = {}
    for split in [name for name in ("test", "validation", "train") if name in rows]:
        mine: set[str] = set()
        kept = []
        for index, key in enumerate(row_keys(rows[split])):
            if key in seen:
                rejected[f"{split} row also held out"] += 1
            elif key in mine:
                rejected["repeated"] += 1
            else:
                mine.add(key)
                kept.append(index)
        seen |= mine
        result[split] = rows[split].take(kept)
    return result


def _cap(rows: dict[str, Rows], limit: int, seed: int) -> dict[str, Rows]:
    """Keep ``limit`` rows over all splits, each split its share."""
    total = sum(len(part) for part in rows.values())
    if total <= limit:
        return rows
    capped = {}
    for split, part in rows.items():
        room = max(1, len(part) * limit // total)
        capped[split] = part.take(cap_indices(part.labels, row_keys(part), room, seed))
    return capped


def _complete(
    spec: DatasetSpec,
    name: str,
    names: tuple[str, ...],
    rows: dict[str, Rows],
    rejected: dict[str, int],
) -> TaskData:
    """Cut the splits that are missing from train."""
    shares = {"validation": spec.validation_fraction, "test": spec.test_fraction}
    missing = [split for split in HELD_OUT if split not in rows]
    train = rows["train"]
    fractions = [shares[split] for split in missing]
    try:
        parts = split_indices(train.labels, row_keys(train), fractions, spec.seed, names)
    except InputError as error:
        raise InputError(f"{spec.source}: {error}") from None
    complete = rows | {"train": train.take(parts[0])}
    complete |= {split: train.take(part) for split, part in zip(missing, parts[1:], strict=True)}
    return TaskData(
        name, names, complete["train"], complete["validation"], complete["test"], rejected
    )


def split_rows(
    spec: DatasetSpec, name: str, names: tuple[str, ...], rows: Rows, rejected: dict[str, int]
) -> TaskData:
    """Cap rows that belong to no split yet, and split them into train, validation and test.

    Raises:
        InputError: there are fewer than two classes, or one cannot be split.
    """
    require_classes(spec, names)
    parts = {"train": rows}
    if spec.max_rows is not None:
        parts = _cap(parts, spec.max_rows, spec.seed)
    return _complete(spec, name, names, parts, rejected)


def row_keys(rows: Rows) -> list[str]:
    """Return what identifies each row: its texts with blanks folded, or its pixels."""
    if rows.images is not None:
        return [image.tobytes().hex() for image in rows.images]
    first = [" ".join(text.split()) for text in rows.texts]
    if rows.pairs is None:
        return first
    return [f"{a}\x00{' '.join(b.split())}" for a, b in zip(first, rows.pairs, strict=True)]
