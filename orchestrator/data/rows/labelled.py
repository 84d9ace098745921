"""Rows to a task: numbered labels, caps, and splits that share no text."""

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import chain

from orchestrator.data.rows.labels import CLASSES, LabelForm, Labels
from orchestrator.data.rows.rereading import Label
from orchestrator.data.rows.rows import Record, Rows, TaskData
from orchestrator.data.rows.splitting import cap_indices, split_groups, split_indices
from orchestrator.data.sources.lines import REPAIRED
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

logger = logging.getLogger(__name__)

MIN_ROWS = 3  # one for each split
MANY_LABELS, TEXTS_OF_A_LABEL = 10, 5
"""A table with at least so many labels, and so many times fewer texts, has swapped columns."""
SHOWN = 40
"""Characters of a text in a message."""
HELD_OUT = ("validation", "test")
CONFLICTING = "text that was read before with another label (conflicting labels)"
"""The first row of such a text stays."""


@dataclass
class Table:
    """Rows of one split as read."""

    records: list[Record] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The text of each row, or the first of two."""
        return [record.text for record in self.records]

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """The words of the label of each row."""
        return [record.label for record in self.records]

    def rows(self, labels: Labels) -> Rows:
        """Return the rows with their numbered labels.

        Raises:
            InputError: only some of them have a second text, choices, a negative, or a file.
        """
        parts = {
            name: [getattr(record, name) for record in self.records]
            for name in ("pair", "choices", "negative", "picture", "sound", "slice")
        }
        for name, values in parts.items():
            count = sum(value is None for value in values)
            if 0 < count < len(values):
                raise InputError(
                    f"{count} of {len(values)} rows have no {name}, the others have one. Give all "
                    "files the same columns."
                )
        given = {name: values if values[0] is not None else None for name, values in parts.items()}
        media = given["picture"] is not None or given["sound"] is not None
        return Rows(
            [] if media else self.texts,
            given["pair"],
            labels,
            choices=given["choices"],
            negatives=given["negative"],
            pictures=given["picture"],
            sounds=given["sound"],
            slices=given["slice"],
        )


@dataclass
class Tables:
    """A labelled source.

    Attributes:
        name: Short name of the data set.
        splits: "train", and "validation" and "test" where the source has them.
        label_names: Name of each label where the source tells; then labels are "0", "1", ...
        rejected: Number of rows left out, by reason.
    """

    name: str
    splits: dict[str, Table]
    label_names: tuple[str, ...] | None = None
    rejected: Counter[str] = field(default_factory=Counter)


def assemble(spec: DatasetSpec, tables: Tables, form: LabelForm) -> TaskData:
    """Make a task of what was read.

    Splits of the source stay; the others are cut from train. A text that is also in a
    held-out split is removed from the splits before it.

    Raises:
        InputError: No rows, too few classes, a label in a held-out split that train does not have,
            or rows that cannot be split.
    """
    for split, table in tables.splits.items():
        if not table.records:
            raise InputError(f"{spec.source}: no rows in {split}. {left_out(tables.rejected)}")
    require_readable(spec, tables)
    notes = read_again(tables, form)
    if form is CLASSES:
        _require_unswapped(spec, tables.splits["train"])
    words, names = form.names(spec, tables.splits["train"].labels, tables.label_names)
    rows = {
        split: table.rows(form.number(spec, split, table.labels, words))
        for split, table in tables.splits.items()
    }
    rejected = Counter(tables.rejected)
    rows = _separate(tables, rows, rejected, form, notes)
    if rejected:
        logger.warning("event=rows_left_out source=%s reasons=%s", spec.source, dict(rejected))
    for note in notes:
        logger.warning("%s: %s", spec.source, note)
    if spec.max_rows is not None:
        rows = _cap(rows, spec.max_rows, spec.seed, form)
    task = _complete(spec, tables.name, names, rows, dict(rejected), form)
    return replace(task, notes=tuple(notes))


def read_again(tables: Tables, form: LabelForm, known: Collection[str] | None = None) -> list[str]:
    """Change the labels of a source to what is meant, in place; return sentences about it.

    Rows with a character that was repaired are taken out of the count of those left out.

    Args:
        tables: The source.
        form: Form of its labels.
        known: Labels of a package; a source that has no others stays as it is.
    """
    repaired = tables.rejected.pop(REPAIRED, 0)
    notes = [f"{repaired} × {REPAIRED}."] if repaired else []
    labels = [record.label for table in tables.splits.values() for record in table.records]
    if known is not None and {*chain.from_iterable(labels)} <= {*known}:
        return notes
    change, note = form.reread(labels)
    if change is not None:
        for table in tables.splits.values():
            table.records = [replace(each, label=change(each.label)) for each in table.records]
    return [*notes, note] if note else notes


def require_readable(spec: DatasetSpec, tables: Tables) -> None:
    """Refuse a source with too many rows that cannot be read.

    Raises:
        InputError: Their share is above ``max_bad_share``; says why they cannot.
    """
    bad = tables.rejected.total() - tables.rejected[REPAIRED]
    rows = bad + sum(len(table.records) for table in tables.splits.values())
    if bad > spec.max_bad_share * rows:
        raise InputError(
            f"{spec.source}: {bad} of {rows} rows cannot be used. {left_out(tables.rejected)} "
            f"Repair them, or raise max_bad_share ({spec.max_bad_share:g}) to do without them."
        )


def _require_unswapped(spec: DatasetSpec, table: Table) -> None:
    """Refuse classes that are texts beside texts that are classes, where rows are single texts.

    Raises:
        InputError: There are many more labels than texts.
    """
    alone = [row for row in table.records if row.text and row.pair is None]
    labels, texts = {row.label for row in alone}, {row.text for row in alone}
    if len(labels) >= MANY_LABELS and TEXTS_OF_A_LABEL * len(texts) <= len(labels):
        raise InputError(
            f"{spec.source}: {len(labels)} different labels and {len(texts)} different texts, such "
            f"as {alone[0].text[:SHOWN]!r} with label {alone[0].label[0][:SHOWN]!r}. Swap "
            "text_column and label_column."
        )


def left_out(rejected: Counter[str]) -> str:
    """Return a sentence with the number of rejected rows by reason."""
    reasons = ", ".join(
        f"{count} × {reason}" for reason, count in rejected.items() if reason != REPAIRED
    )
    return f"Left out: {reasons or 'nothing'}."


def _separate(
    tables: Tables,
    rows: dict[str, Rows],
    rejected: Counter[str],
    form: LabelForm,
    notes: list[str],
) -> dict[str, Rows]:
    """Drop repeated rows, and from each split those that are also in a later one."""
    seen: set[str] = set()
    labels: dict[str, Label] = {}
    conflicts: dict[str, list[str]] = {}
    result: dict[str, Rows] = {}
    for split in [name for name in ("test", "validation", "train") if name in rows]:
        mine: set[str] = set()
        kept = []
        keys = form.row_keys(rows[split])
        groups = form.leak_keys(rows[split]) or keys
        for index, (key, group) in enumerate(zip(keys, groups, strict=True)):
            label = tables.splits[split].records[index].label
            if group not in seen and key not in mine:
                mine.add(key)
                kept.append(index)
                labels[key] = label
                continue
            reason = f"{split} row also held out" if group in seen else "repeated"
            text = _shown(rows[split], index)
            if labels.get(key, label) != label:
                reason = CONFLICTING if reason == "repeated" else reason
                words = " and ".join("|".join(each)[:SHOWN] for each in (labels[key], label))
                conflicts.setdefault(reason, []).append(f"{text!r} ({words})")
            if group in seen and not rejected[reason]:
                logger.warning(
                    "event=rows_in_two_splits source=%s split=%s example=%r",
                    *(tables.name, split, text),
                )
            rejected[reason] += 1
        seen |= {groups[index] for index in kept}
        result[split] = rows[split].take(kept)
    for reason, found in conflicts.items():
        what = reason if reason == CONFLICTING else f"{reason} with another label"
        notes.append(f"{len(found)} × {what}: {found[0]}.")
    return result


def _shown(rows: Rows, index: int) -> str:
    """Return the beginning of a row; of files, its number."""
    return rows.texts[index][:SHOWN] if rows.texts else f"row {index}"


def _cap(rows: dict[str, Rows], limit: int, seed: int, form: LabelForm) -> dict[str, Rows]:
    """Keep ``limit`` rows over all splits, each split its share."""
    total = sum(len(part) for part in rows.values())
    if total <= limit:
        return rows
    capped = {}
    for split, part in rows.items():
        room = max(1, len(part) * limit // total)
        kept = cap_indices(form.strata(part.labels), form.row_keys(part), room, seed)
        capped[split] = part.take(kept)
    return capped


def _complete(
    spec: DatasetSpec,
    name: str,
    names: tuple[str, ...],
    rows: dict[str, Rows],
    rejected: dict[str, int],
    form: LabelForm,
) -> TaskData:
    """Cut the splits that are missing from train."""
    shares = {"validation": spec.validation_fraction, "test": spec.test_fraction}
    missing = [split for split in HELD_OUT if split not in rows]
    train = rows["train"]
    fractions = [shares[split] for split in missing]
    if len(train) < MIN_ROWS:
        raise InputError(
            f"{spec.source}: {len(train)} rows to learn from, at least {MIN_ROWS} are needed. Add "
            f"rows or raise max_rows. {left_out(Counter(rejected))}"
        )
    try:
        groups = form.leak_keys(train)
        if groups is not None:
            parts = split_groups(groups, fractions, spec.seed)
        else:
            strata = form.strata(train.labels)
            parts = split_indices(strata, form.row_keys(train), fractions, spec.seed, names)
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
        InputError: There are fewer than two classes, or one cannot be split.
    """
    CLASSES.require_some(spec, names)
    parts = {"train": rows}
    if spec.max_rows is not None:
        parts = _cap(parts, spec.max_rows, spec.seed, CLASSES)
    return _complete(spec, name, names, parts, rejected, CLASSES)
