"""The right one of several candidates, in the layouts of SWAG, RACE, ARC and plain tables.

Candidates are a list (``choices``, ``endings``, ``options``), a mapping of texts and letters
(``choices: {text: [...], label: ["A", ...]}``), or a column each (``ending0`` ..., ``option_a``
..., ``A``, ``B``, ...). The label is the number of the right one from 0, its letter, the name of
its column, or its text. With a question and a context, the context is the first text.

Shapes: N rows, C choices of a row.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.rows.labels import FreeForm, Labels
from orchestrator.data.rows.rereading import Label
from orchestrator.data.rows.rows import Reader, Record, Rows, TableRow
from orchestrator.data.sources.contents import (
    CHOICE_COLUMNS,
    find_column,
    missing_column,
    usable_text,
)
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

CONTEXT_COLUMNS = ("context", "ctx", "article", "passage", "paragraph", "sent1")
QUESTION_COLUMNS = ("question", "question_stem", "sent2", "query", "prompt", "premise", "text")
OPTION_COLUMN = re.compile(r"(?:choice|option|ending|answer)[ _]?(?:\d+|[a-j])", re.IGNORECASE)
LETTERS = "ABCDEFGHIJ"
MIN_CHOICES = 2

Cells = list[tuple[str, str]]
"""Name and text of each choice."""


class ChoiceForm(FreeForm):
    """The number of the right choice: int64 [N]."""

    name = "choice"
    what = ("choice", "choices")
    text_columns = CONTEXT_COLUMNS
    pair_columns = QUESTION_COLUMNS
    label_columns = ("label", "labels", "answer", "answerKey", "answer_key", "gold")

    def reader(self, spec: DatasetSpec, row: TableRow, path: Path) -> Reader:
        """Return a reader of questions and choices.

        Raises:
            InputError: a column is missing.
        """
        context = find_column(spec.text_column, CONTEXT_COLUMNS, row, "context", path)
        question = find_column(spec.pair_column, QUESTION_COLUMNS, row, "question", path)
        if context is None and question is None:
            both = (*QUESTION_COLUMNS, *CONTEXT_COLUMNS)
            raise InputError(missing_column("text_column", both, row, path))
        first = context or question or ""
        second = question if question != first else None
        label = self.require("label_column", spec.label_column, self.label_columns, row, path)
        cells = choices_reader(row, path, {first, second, label})

        def read(row: TableRow, rejected: Counter[str]) -> Record | None:
            text = usable_text(row.get(first), rejected)
            pair = None if second is None else usable_text(row.get(second), rejected)
            if text is None or (second is not None and pair is None):
                return None
            choices = cells(row)
            right = choices if isinstance(choices, str) else _right(row.get(label), choices)
            if isinstance(choices, str) or isinstance(right, str):
                rejected[str(right)] += 1
                return None
            return Record((str(right),), text, pair, tuple(each for _, each in choices))

        return read

    def label(self, value: object) -> Label | str:
        """Take the number of a choice."""
        number = str(value).strip()
        return (number,) if number.isdecimal() else "label is not the number of a choice"

    def number(
        self, spec: DatasetSpec, split: str, labels: Sequence[Label], words: Sequence[str]
    ) -> Labels:
        """Return the number of the right choice of each row."""
        del spec, split, words
        return self.stack([int(label[0]) for label in labels])

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return int64 [N]."""
        return np.asarray(labels, dtype=np.int64)

    def leak_keys(self, rows: Rows) -> list[str]:
        """Return the contexts: all questions about one context are in the same split."""
        return [" ".join(text.split()) for text in rows.texts]


def choices_reader(
    columns: Iterable[str], path: Path, taken: set[str | None]
) -> Callable[[TableRow], Cells | str]:
    """Return a function from a row to its choices, or to why they cannot be used.

    Args:
        columns: columns of the table.
        path: the table, for messages.
        taken: columns that are read as something else.

    Raises:
        InputError: there are no columns of choices.
    """
    row = list(columns)
    column = find_column(None, CHOICE_COLUMNS, row, "choices", path)
    if column is not None:
        return lambda row: _listed(row.get(column))
    found = option_columns(row, taken)
    if not found:
        usual = (*CHOICE_COLUMNS, "choice0 and choice1", "A and B")
        raise InputError(
            f"{path}: no columns of choices: {', '.join(usual)}, ... Columns: {', '.join(row)}."
        )
    return lambda row: _usable([(name, row.get(name)) for name in found])


def option_columns(columns: Iterable[str], taken: set[str | None]) -> list[str]:
    """Return columns of one candidate each, in their order; none where there are fewer than two."""
    free = [name for name in columns if name not in taken]
    named = [name for name in free if OPTION_COLUMN.fullmatch(name)]
    found = sorted(named or [name for name in free if name in LETTERS], key=_order)
    return found if len(found) >= MIN_CHOICES else []


def _order(name: str) -> tuple[int, str]:
    """Sort ``choice10`` behind ``choice9``."""
    digits = re.search(r"\d+$", name)
    return (int(digits.group()) if digits else 0, name)


def _listed(value: Any) -> Cells | str:
    """Return the choices of one cell; each is called by its letter."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [part.strip() for part in value.split("|")]
    names: object = None
    if isinstance(value, Mapping):
        value, names = value.get("text"), value.get("label")
    if not isinstance(value, list):
        return "choices are not a list"
    if not isinstance(names, list) or len(names) != len(value):
        names = [LETTERS[i : i + 1] for i in range(len(value))]
    return _usable(list(zip(map(str, names), value, strict=True)))


def _usable(cells: Sequence[tuple[str, object]]) -> Cells | str:
    """Return the choices; empty cells at the end are choices that a row does not have."""
    given = list(cells)
    while given and given[-1][1] in (None, ""):
        given.pop()
    if not all(isinstance(text, str) and text.strip() for _, text in given):
        return "a choice is empty or not a text"
    if len(given) < MIN_CHOICES:
        return "fewer than two choices"
    return [(name, str(text).strip()) for name, text in given]


def _right(value: object, choices: Cells) -> int | str:
    """Return the number of the right choice, or why there is none."""
    word = str(value).strip() if isinstance(value, int | str) else ""
    if not word or isinstance(value, bool):
        return "label missing" if value in (None, "") else "label names no choice"
    names, texts = [name for name, _ in choices], [text for _, text in choices]
    for known in (names, [str(i) for i in range(len(choices))], texts):
        if word in known:
            return known.index(word)
    letter = LETTERS.find(word.upper()) if len(word) == 1 else -1
    return letter if 0 <= letter < len(choices) else "label names no choice"
