"""Forms of labels, and the default form: one class per row.

A form reads text and label of a row, numbers the labels, and says how rows are split. Labels as
read are words: ``("spam",)``, ``("O", "B-PER")``, ``()`` or ``("0.5",)``. The other forms are in
``label_forms``.

Shapes: N rows, K classes, tags, names or numbers.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import IntArray
from orchestrator.config import did_you_mean
from orchestrator.data.rows.guesses import guess_classes
from orchestrator.data.rows.rereading import (
    AS_READ,
    Label,
    Reread,
    lists_as_classes,
    whole_numbers,
)
from orchestrator.data.rows.rows import Reader, Record, Rows, TableRow, row_keys
from orchestrator.data.sources.contents import (
    CHOICE_COLUMNS,
    LABEL_COLUMNS,
    PAIR_COLUMNS,
    TEXT_COLUMNS,
    find_column,
    missing_column,
    usable_text,
)
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

Labels = npt.NDArray[Any]

FEW_CLASSES = 50  # so few may be classes however small
ROWS_OF_A_CLASS = 3  # on average; a column of numbers or sentences has one
SHOWN = 20  # names in a message
COUNTS = ("none", "one", "two")


class LabelForm(ABC):
    """One form of labels.

    Attributes:
        name: of the form; that of the target it is for, and "class" for all that ask for one.
        what: what K is the number of.
        least: smallest K that can be learned.
        tagged: whether texts are words with a label each, one a line.
        text_columns: usual columns of the text, the first that is there is taken.
        pair_columns: usual columns of the second text.
        label_columns: usual columns of the label.
        media_label_columns: those beside a column of images or sounds.
    """

    name: ClassVar[str]
    what: ClassVar[tuple[str, str]]
    least: ClassVar[int] = 1
    tagged: ClassVar[bool] = False
    text_columns: ClassVar[tuple[str, ...]] = TEXT_COLUMNS
    pair_columns: ClassVar[tuple[str, ...]] = PAIR_COLUMNS
    label_columns: ClassVar[tuple[str, ...]] = LABEL_COLUMNS
    media_label_columns: ClassVar[tuple[str, ...]] = LABEL_COLUMNS

    def reader(self, spec: DatasetSpec, row: TableRow, path: Path) -> Reader:
        """Return what reads the rows of a table.

        Args:
            spec: may name the columns.
            row: the first row; says which columns there are.
            path: the table, for messages.

        Raises:
            InputError: there is no column for the text or the label.
        """
        text = self.require("text_column", spec.text_column, self.text_columns, row, path)
        label = self.require("label_column", spec.label_column, self.label_columns, row, path)
        pair = find_column(spec.pair_column, self.pair_columns, row, "second text", path)

        def read(row: TableRow, rejected: Counter[str]) -> Record | None:
            found = self.read(row.get(text), row.get(label), rejected)
            if found is None or pair is None:
                return None if found is None else Record(found[1], found[0])
            second = usable_text(row.get(pair), rejected)
            return None if second is None else Record(found[1], found[0], second)

        return read

    def require(
        self, option: str, wanted: str | None, usual: Iterable[str], row: TableRow, path: Path
    ) -> str:
        """Return the column that an option of the data set names, or a usual one.

        Raises:
            InputError: there is none.
        """
        names = tuple(usual)
        column = find_column(wanted, names, row, option.removesuffix("_column"), path)
        if column is None:
            raise InputError(missing_column(option, names, row, path))
        return column

    def read(self, text: object, label: object, rejected: Counter[str]) -> tuple[str, Label] | None:
        """Return text and label of a row, or count why it cannot be used."""
        found = self.label(label)
        if isinstance(found, str):
            rejected[found] += 1
            return None
        usable = usable_text(text, rejected)
        return None if usable is None else (usable, found)

    @abstractmethod
    def label(self, value: object) -> Label | str:
        """Return the label in a cell, or why there is none."""

    def reread(self, labels: Sequence[Label]) -> Reread:
        """Return how labels are meant, which only all labels of a source show."""
        del labels
        return AS_READ

    def names(
        self, spec: DatasetSpec, labels: Sequence[Label], given: tuple[str, ...] | None
    ) -> tuple[list[str], tuple[str, ...]]:
        """Return the words of labels in the order of their numbers, and the name of each.

        Args:
            spec: Where the rows come from.
            labels: Those of the training rows.
            given: Names of "0", "1", ... where the source tells; else the words are the names.

        Raises:
            InputError: There are too few, or one without a name.
        """
        found = set(chain.from_iterable(labels))
        if given is None:
            numeric = all(word.removeprefix("-").isdecimal() for word in found)
            words = sorted(found, key=int) if numeric else sorted(found)
            self.require_some(spec, words)
            return words, tuple(words)
        words = [str(number) for number in range(len(given))]
        strange = sorted(found - set(words))
        if strange:
            raise InputError(
                f"{spec.source}: label {strange[0]!r} has no name: {len(words)} names are given, "
                f"for labels 0 to {len(words) - 1}."
            )
        self.require_some(spec, given)
        return words, given

    def require_some(self, spec: DatasetSpec, names: Sequence[str]) -> None:
        """Refuse a task that has nothing to tell apart.

        Raises:
            InputError: There are fewer names than the least.
        """
        if len(names) < self.least:
            shown = ", ".join(map(repr, names)) or "none"
            raise InputError(
                f"{spec.source}: {len(names)} {self.what[len(names) != 1]} ({shown}); at least "
                f"{COUNTS[self.least]} needed. Check label_column."
            )

    def number(
        self, spec: DatasetSpec, split: str, labels: Sequence[Label], words: Sequence[str]
    ) -> Labels:
        """Return the labels of a split as numbers.

        Raises:
            InputError: A word is not among ``words``.
        """
        numbers = {word: number for number, word in enumerate(words)}
        for word in chain.from_iterable(labels):
            if word not in numbers:
                raise InputError(
                    f"{spec.source}: label {word!r} occurs in {split} but not in train. "
                    f"{did_you_mean(word, words, 'Labels of train')}"
                )
        return self.stack(
            [self.place([numbers[word] for word in label], len(words)) for label in labels]
        )

    def place(self, numbers: list[int], size: int) -> Any:
        """Return the label of a row, given the numbers of its words and K."""
        del size
        return numbers

    @abstractmethod
    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return the labels of rows as the array that ``Rows`` has."""

    def strata(self, labels: Labels) -> IntArray:
        """Return the stratum of each row, int64 [N]."""
        return np.zeros(len(labels), dtype=np.int64)

    def texts(self, rows: Rows) -> list[str]:
        """Return all texts of rows, for a tokenizer to know."""
        first = [" ".join(words) for words in rows.words] if self.tagged else rows.texts
        return [*first, *(rows.pairs or ())]

    def row_keys(self, rows: Rows) -> list[str]:
        """Return what identifies each row; of equal ones, the first stays."""
        return row_keys(rows)

    def leak_keys(self, rows: Rows) -> list[str] | None:
        """Return what must not be in two splits; None: what identifies a row.

        Forms with keys of their own have no strata: rows with equal keys stay together.
        """
        del rows
        return None

    @abstractmethod
    def guess(self, seen: Labels, asked: Labels, size: int) -> float:
        """Return the loss of knowing only how labels are distributed in training."""

    def size(self, names: Sequence[str], labels: Labels) -> int:
        """Return K."""
        del labels
        return len(names)

    def require_size(self, names: Sequence[str], labels: Labels, wanted: int) -> None:
        """Refuse a target with another number of answers than the rows have labels for.

        Raises:
            InputError: Naming both.
        """
        found = self.size(names, labels)
        if found != wanted:
            raise InputError(
                f"the rows have {found} {self.what[found != 1]}, the target has num_labels "
                f"{wanted}. Set num_labels to {found}.{_listed(names)}"
            )


def _listed(names: Sequence[str]) -> str:
    """Return the first names of labels in words."""
    more = ", ..." if len(names) > SHOWN else ""
    return f" Found: {', '.join(names[:SHOWN])}{more}" if names else ""


class ClassForm(LabelForm):
    """One class per row: int64 [N]."""

    name = "class"
    what = ("class", "classes")
    least = 2

    def reader(self, spec: DatasetSpec, row: TableRow, path: Path) -> Reader:
        """Return a reader of classes; rows with candidates to choose from have none.

        Raises:
            InputError: A column is missing, or one holds the candidates of a choice.
        """
        lists = [name for name in CHOICE_COLUMNS if isinstance(row.get(name), list | dict)]
        if lists and spec.label_column is None:
            raise InputError(
                f"{path}: column {lists[0]!r} holds candidates, so the labels are choices "
                "(multiple_choice), not classes. If they are classes, name label_column."
            )
        return super().reader(spec, row, path)

    def label(self, value: object) -> Label | str:
        """Take a word or a whole number; ``NaN`` is what pandas writes for no label."""
        if value in ("nan", "NaN"):
            return "label missing"
        if isinstance(value, float):
            if isnan(value):
                return "label missing"
            value = repr(value) if value.is_integer() else value
        if isinstance(value, bool | int | str) and (word := str(value).strip()):
            return (word,)
        return "label missing" if value in (None, "") else "label is not a word or whole number"

    def reread(self, labels: Sequence[Label]) -> Reread:
        """Read ``0.0`` as 0; say where classes look like lists."""
        numbers = whole_numbers(labels)
        return lists_as_classes(labels) if numbers is AS_READ else numbers

    def names(
        self, spec: DatasetSpec, labels: Sequence[Label], given: tuple[str, ...] | None
    ) -> tuple[list[str], tuple[str, ...]]:
        """Return the classes; a column with almost as many values as rows is not a class column."""
        found = set(labels)
        if len(found) > max(FEW_CLASSES, len(labels) // ROWS_OF_A_CLASS):
            raise InputError(
                f"{spec.source}: {len(found)} different labels in {len(labels)} rows, such as "
                f"{labels[0][0][:40]!r}: these are not classes. Check label_column."
            )
        return super().names(spec, labels, given)

    def place(self, numbers: list[int], size: int) -> int:
        """Return the class."""
        del size
        return numbers[0]

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return int64 [N]."""
        return np.asarray(labels, dtype=np.int64)

    def strata(self, labels: Labels) -> IntArray:
        """Return the classes."""
        return labels

    def guess(self, seen: Labels, asked: Labels, size: int) -> float:
        """Return nats a row."""
        return guess_classes(seen, asked, size)[0]


class FreeForm(LabelForm):
    """Labels without names: answers, choices, scores or texts."""

    def names(
        self, spec: DatasetSpec, labels: Sequence[Label], given: tuple[str, ...] | None
    ) -> tuple[list[str], tuple[str, ...]]:
        """Return none."""
        del spec, labels, given
        return [], ()

    def guess(self, seen: Labels, asked: Labels, size: int) -> float:
        """Refuse: these labels have no distribution.

        Raises:
            InputError: always.
        """
        raise InputError(f"labels of form {self.name} have no most frequent one.")


def object_array(values: Sequence[object]) -> Labels:
    """Return an object array [N] of values of any kind, sequences included."""
    found = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        found[index] = value
    return found


CLASSES = ClassForm()
