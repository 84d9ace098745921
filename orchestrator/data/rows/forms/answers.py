"""Answers that are parts of a context, in the layouts of SQuAD and of plain tables.

Rows have a question and a context. An answer is a text and the place of its first character:
``answers: {text: [...], answer_start: [...]}``, a list of ``{text, answer_start}``, or the columns
``answer`` and ``answer_start``. A question without an answer has an empty list or cell, or
``is_impossible``.

Shapes: N rows.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.data.rows.labels import FreeForm, Labels, object_array
from orchestrator.data.rows.rereading import Label
from orchestrator.data.rows.rows import Reader, Record, Rows, TableRow
from orchestrator.data.sources.contents import find_column, usable_text
from orchestrator.data.spec import DatasetSpec

START_COLUMNS = ("answer_start", "answers_start", "start")
IMPOSSIBLE_COLUMNS = ("is_impossible", "unanswerable")
NEEDS_PLACE = "answer is not at answer_start"

Found = list[tuple[str, int | None]]


class AnswersForm(FreeForm):
    """Answers of a question: an object array [N] of tuples of (text, first character)."""

    name = "answers"
    what = ("answer", "answers")
    text_columns = ("question", "query")
    pair_columns = ("context", "passage", "paragraph", "document", "text")
    label_columns = ("answers", "answer", "label")

    def reader(self, spec: DatasetSpec, row: TableRow, path: Path) -> Reader:
        """Return a reader of questions, contexts and answers.

        Raises:
            InputError: a column is missing.
        """
        question = self.require("text_column", spec.text_column, self.text_columns, row, path)
        context = self.require("pair_column", spec.pair_column, self.pair_columns, row, path)
        answers = self.require("label_column", spec.label_column, self.label_columns, row, path)
        start = find_column(None, START_COLUMNS, row, "place of the answer", path)
        impossible = find_column(None, IMPOSSIBLE_COLUMNS, row, "missing answer", path)

        def read(row: TableRow, rejected: Counter[str]) -> Record | None:
            asked = usable_text(row.get(question), rejected)
            text = row.get(context)
            if asked is None or usable_text(text, rejected) is None:
                return None
            none = impossible is not None and row.get(impossible) in (True, 1, "1", "true", "True")
            places = row.get(start) if start is not None else None
            found = [] if none else _answers(row.get(answers), places)
            label = found if isinstance(found, str) else _placed(found, str(text))
            if isinstance(label, str):
                rejected[label] += 1
                return None
            return Record(label, asked, str(text))

        return read

    def label(self, value: object) -> Label | str:
        """Take answers whose places are given, texts and places in turn."""
        found = _answers(value, None)
        if isinstance(found, str):
            return found
        return tuple(str(part) for answer in found for part in answer)

    def number(
        self, spec: DatasetSpec, split: str, labels: Sequence[Label], words: Sequence[str]
    ) -> Labels:
        """Return the answers of each row of a split."""
        del spec, split, words
        pairs = [zip(label[::2], map(int, label[1::2]), strict=True) for label in labels]
        return self.stack([tuple(pair) for pair in pairs])

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return an object array [N]."""
        return object_array([tuple((str(t), int(start)) for t, start in row) for row in labels])

    def leak_keys(self, rows: Rows) -> list[str]:
        """Return the contexts: all questions about one context are in the same split."""
        return [" ".join(context.split()) for context in rows.pairs or []]


def _answers(value: Any, places: object) -> Found | str:
    """Return texts and places of answers, or why they cannot be read."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):  # else it is a text that begins with a bracket
            value = json.loads(value)
    if isinstance(value, Mapping):
        value, places = value.get("text"), value.get("answer_start", places)
    if value is None or value == "":
        return []
    if isinstance(value, str):
        value, places = [value], [places]
    if not isinstance(value, Sequence):
        return "answer is not a text"
    if all(isinstance(each, Mapping) for each in value):
        return _checked([(each.get("text"), each.get("answer_start")) for each in value])
    starts = places if isinstance(places, Sequence) else [None] * len(value)
    if len(starts) != len(value):
        return "another number of answers than of answer_start"
    return _checked(list(zip(value, starts, strict=True)))


def _checked(pairs: Sequence[tuple[object, object]]) -> Found | str:
    """Return texts and places of the right types; an empty text or place -1 means: no answer."""
    found: Found = []
    for text, start in pairs:
        if not isinstance(text, str):
            return "answer is not a text"
        whole = str(start).strip().removesuffix(".0")  # a column with gaps is of floats
        known = start is not None and whole not in ("", "nan")
        if known and not whole.removeprefix("-").isdecimal():
            return "answer_start is not a whole number"
        if text.strip() and whole != "-1":
            found.append((text, int(whole) if known else None))
    return found


def _placed(answers: Found, context: str) -> Label | str:
    """Return texts and places in turn; a text without a place is looked for in the context."""
    label: list[str] = []
    for text, start in answers:
        place = context.find(text) if start is None else start
        if start is None and place < 0:
            return "answer is not in the context"
        if place < 0 or context[place : place + len(text)] != text:
            return NEEDS_PLACE
        blanks = len(text) - len(text.lstrip())
        label += [text.strip(), str(place + blanks)]
    return tuple(label)
