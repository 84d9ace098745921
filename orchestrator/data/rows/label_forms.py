"""Forms of labels other than one class: a tag per word, names, numbers, or a text.

A text is what follows a prompt, or what is said in a recording.

Shapes: N rows, K tags, names or numbers.
"""

from collections import Counter
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.rows.forms.answers import AnswersForm
from orchestrator.data.rows.forms.chat import ChatForm
from orchestrator.data.rows.forms.choice import ChoiceForm
from orchestrator.data.rows.forms.similarity import SimilarityForm
from orchestrator.data.rows.forms.texts import TextForm
from orchestrator.data.rows.guesses import guess_classes, guess_flags, guess_numbers
from orchestrator.data.rows.labels import CLASSES, LabelForm, Labels
from orchestrator.data.rows.rereading import Label, Reread, split_lists
from orchestrator.data.rows.rows import WORD_BREAK
from orchestrator.data.sources.contents import LABEL_COLUMNS, TEXT_COLUMNS
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

NAME_BREAK = "|"  # between the names, or numbers, of one cell
LARGEST = float(np.finfo(np.float32).max)


class TagsForm(LabelForm):
    """One tag per word: an object array [N] of int64 [words]. Texts are words, one per line."""

    name = "tags"
    what = ("tag", "tags")
    least = 2
    tagged = True
    text_columns = ("tokens", "words", *TEXT_COLUMNS)
    pair_columns = ()
    label_columns = ("tags", "ner_tags", *LABEL_COLUMNS)

    def read(self, text: object, label: object, rejected: Counter[str]) -> tuple[str, Label] | None:
        """Take lists of words and of tags, or texts with blanks between them."""
        words, tags = self.label(text), self.label(label)
        if isinstance(words, str):
            rejected[words.replace("label", "text")] += 1
        elif isinstance(tags, str):
            rejected[tags] += 1
        elif len(words) != len(tags):
            rejected["another number of tags than words"] += 1
        else:
            return WORD_BREAK.join(words), tags
        return None

    def label(self, value: object) -> Label | str:
        """Take a list of words, or a text with blanks between them."""
        parts = value.split() if isinstance(value, str) else value
        if parts is None or parts == []:
            return "label missing"
        words = [_word(part) for part in parts] if isinstance(parts, list) else [None]
        return "label is not a list of words" if None in words else tuple(w for w in words if w)

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return an object array [N], whose parts differ in length."""
        stacked = np.empty(len(labels), dtype=object)
        for row, tags in enumerate(labels):
            stacked[row] = np.asarray(tags, dtype=np.int64)
        return stacked

    def guess(self, seen: Labels, asked: Labels, size: int) -> float:
        """Return nats a word."""
        return guess_classes(np.concatenate(seen), np.concatenate(asked), size)[0]


class NamesForm(LabelForm):
    """Any number of names a row, none included: int64 [N, K], 1 where it has the name."""

    name = "multilabel"
    what = ("label", "labels")

    def label(self, value: object) -> Label | str:
        """Take a list of names, or a text with ``|`` between them; a name counts once."""
        if value is None:
            return "label missing"
        words = [_word(part) for part in _parts(value)]
        if None in words:
            return "label is not a list of names"
        return tuple(dict.fromkeys(word for word in words if word))

    def reread(self, labels: Sequence[Label]) -> Reread:
        """Split names that commas or semicolons separate."""
        return split_lists(labels)

    def place(self, numbers: list[int], size: int) -> npt.NDArray[np.int64]:
        """Return a 1 for each name."""
        flags = np.zeros(size, dtype=np.int64)
        flags[numbers] = 1
        return flags

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return int64 [N, K]."""
        return np.asarray(labels, dtype=np.int64)

    def guess(self, seen: Labels, asked: Labels, size: int) -> float:
        """Return nats a name of a row."""
        del size
        return guess_flags(seen, asked)[0]


class NumbersForm(LabelForm):
    """K numbers per row: float32 [N, K]."""

    name = "regression"
    what = ("number per row", "numbers per row")
    label_columns = (*LABEL_COLUMNS, "score")

    def label(self, value: object) -> Label | str:
        """Take a number, a list of numbers, or a text with ``|`` between them."""
        parts = _parts(value)
        if value is None or not parts:
            return "label missing"
        try:
            numbers = [float(str(part)) for part in parts]
        except ValueError:
            return "label is not a number"
        if not all(isfinite(number) and abs(number) <= LARGEST for number in numbers):
            return "label is not finite"
        return tuple(map(repr, numbers))

    def names(
        self, spec: DatasetSpec, labels: Sequence[Label], given: tuple[str, ...] | None
    ) -> tuple[list[str], tuple[str, ...]]:
        """Return the column indices of the numbers of the first row; they have no names."""
        del spec, given
        return [str(place) for place in range(len(labels[0]))], ()

    def number(
        self, spec: DatasetSpec, split: str, labels: Sequence[Label], words: Sequence[str]
    ) -> Labels:
        """Return the numbers of a split.

        Raises:
            InputError: A row has more or fewer than the first one of train.
        """
        for label in labels:
            if len(label) != len(words):
                raise InputError(
                    f"{spec.source}: a row of {split} has {len(label)} numbers, the first row of "
                    f"train has {len(words)}. Give every row as many."
                )
        return self.stack(labels)

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return float32 [N, K]."""
        return np.asarray(labels, dtype=np.float64).astype(np.float32)

    def guess(self, seen: Labels, asked: Labels, size: int) -> float:
        """Return the mean square of the distance to the mean."""
        del size
        return guess_numbers(seen, asked)[0]

    def size(self, names: Sequence[str], labels: Labels) -> int:
        """Return the number of columns."""
        del names
        return int(labels.shape[1])


def _word(value: object) -> str | None:
    """Return a word or whole number as text with its blanks folded; None: it is none."""
    text = " ".join(str(value).split()) if isinstance(value, bool | int | str) else ""
    return text or None


def _parts(value: object) -> list[object]:
    """Return the entries of a list, or of a text with ``|`` between them."""
    if isinstance(value, str):
        return [part for part in value.split(NAME_BREAK) if part.strip()]
    return list(value) if isinstance(value, list) else [value]


FORMS: dict[str, LabelForm] = {
    form.name: form
    for form in (
        CLASSES,
        TagsForm(),
        NamesForm(),
        NumbersForm(),
        AnswersForm(),
        ChoiceForm(),
        SimilarityForm(),
        TextForm(),
        ChatForm(),
    )
}
"""All of them by name."""
