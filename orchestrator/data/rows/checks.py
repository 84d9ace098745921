"""Checks of a labelled data set before it is learned: for a report, and to be refused.

``load_task`` keeps equal rows out of two splits and leaves out what it cannot read; this counts
what it found and looks again, so that rows made in another way are held to the same.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.errors import Problem

SPLITS = ("train", "validation", "test")
SHOWN = 3
"""Rows that a finding shows."""

SHOWN_CHARACTERS = 80

Lengths = Callable[[Rows], Sequence[int]]
"""Returns the length of each row in tokens, special ones included."""


class Found(StrictModel):
    """Rows that stand out."""

    count: int
    """Number of rows."""
    examples: tuple[str, ...] = ()
    """The beginning of the first ones."""


class DataReport(StrictModel):
    """Counts of a labelled data set."""

    name: str
    """Name of the data set."""
    rows: dict[str, int]
    """Rows of each split."""
    classes: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Rows of each class, by split; of tasks with one class per row."""
    duplicates: dict[str, Found] = Field(default_factory=dict)
    """Rows that are in two splits, by both: ``train/test``."""
    repeated: dict[str, Found] = Field(default_factory=dict)
    """Rows that are more than once in a split."""
    too_long: dict[str, Found] = Field(default_factory=dict)
    """Rows with more tokens than the limit, by split; they are cut, or read in windows."""
    max_length: int | None = None
    """The limit in tokens."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Rows that were left out, by reason."""
    notes: tuple[str, ...] = ()
    """Sentences about what was read in another way than it is written."""

    @property
    def missing_classes(self) -> dict[str, tuple[str, ...]]:
        """Classes without a row, by split."""
        return {
            split: tuple(name for name, count in counts.items() if not count)
            for split, counts in self.classes.items()
            if not all(counts.values())
        }

    def problems(self) -> Iterable[Problem]:
        """Yield what nothing can be learned from, or what would flatter the test."""
        for split, counts in self.classes.items():
            there = [name for name, count in counts.items() if count]
            if split == "train" and len(there) < 2:
                yield Problem(
                    split, f"has one class only ({', '.join(there)}). Add rows of others."
                )
        for splits, found in self.duplicates.items():
            yield Problem(
                splits,
                f"{found.count} rows are in both splits, such as {found.examples[0]!r}. Remove "
                "them from one.",
            )

    def warnings(self) -> list[str]:
        """Return sentences about what may be meant so, but often is not."""
        said = [f"{count} rows were left out: {why}." for why, count in self.rejected.items()]
        said += self.notes
        for split, found in self.repeated.items():
            said.append(
                f"{found.count} rows of {split} are repeated, such as {found.examples[0]!r}."
            )
        for split, names in self.missing_classes.items():
            said.append(f"{split} has no row of {', '.join(names)}.")
        for split, found in self.too_long.items():
            share = found.count / self.rows[split]
            said.append(
                f"{found.count} rows of {split} ({share:.0%}) have more than {self.max_length} "
                f"tokens, such as {found.examples[0]!r}."
            )
        return said


def check_data(
    data: TaskData,
    form: LabelForm = CLASSES,
    *,
    lengths: Lengths | None = None,
    max_length: int | None = None,
) -> DataReport:
    """Count what stands out in a data set.

    Args:
        data: the data set.
        form: what its labels are.
        lengths: length of each row in tokens; None: lengths are not looked at.
        max_length: limit of the model in tokens.
    """
    parts = {split: data.split(split) for split in SPLITS}
    duplicates, repeated = _equal_rows(parts, form)
    return DataReport(
        name=data.name,
        rows={split: len(rows) for split, rows in parts.items()},
        classes={split: _counts(rows, data.label_names) for split, rows in parts.items()}
        if form is CLASSES
        else {},
        duplicates=duplicates,
        repeated=repeated,
        too_long={} if lengths is None or max_length is None else _long(parts, lengths, max_length),
        max_length=max_length,
        rejected=dict(data.rejected),
        notes=data.notes,
    )


def _counts(rows: Rows, names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(rows.labels, minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def _equal_rows(
    parts: dict[str, Rows], form: LabelForm
) -> tuple[dict[str, Found], dict[str, Found]]:
    """Return rows that are in two splits, and those that are twice in one."""
    where: dict[str, set[str]] = {}
    duplicates: dict[str, list[str]] = {}
    repeated: dict[str, Found] = {}
    for split, rows in parts.items():
        keys = form.row_keys(rows)
        groups = form.leak_keys(rows) or keys
        counts = Counter(keys)
        for index, group in enumerate(groups):
            for other in sorted(where.get(group, set()) - {split}):
                duplicates.setdefault(f"{other}/{split}", []).append(_shown(rows, index))
            where.setdefault(group, set()).add(split)
        more = [i for i, key in enumerate(keys) if counts[key] > 1]
        surplus = sum(counts.values()) - len(counts)
        if surplus:
            repeated[split] = _found([_shown(rows, i) for i in more], surplus)
    return {splits: _found(rows) for splits, rows in duplicates.items()}, repeated


def _long(parts: dict[str, Rows], lengths: Lengths, limit: int) -> dict[str, Found]:
    found = {}
    for split, rows in parts.items():
        places = [i for i, length in enumerate(lengths(rows)) if length > limit]
        if places:
            found[split] = _found([_shown(rows, i) for i in places])
    return found


def _found(rows: list[str], count: int | None = None) -> Found:
    return Found(count=len(rows) if count is None else count, examples=tuple(rows[:SHOWN]))


def _shown(rows: Rows, index: int) -> str:
    """Return the beginning of a row; of files, its number."""
    if not rows.texts:
        return f"row {index}"
    text = " ".join(rows.texts[index].split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
