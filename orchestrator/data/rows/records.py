"""One labelled row as it was read, before its label is numbered."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TableRow = Mapping[str, object]
"""Cells of one row of a table, by column."""


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled row.

    Attributes:
        label: words of the label, as its form reads them.
        text: the text, or the first of two.
        pair: the second text.
        choices: candidates; one of them is right.
        negative: a text that does not belong to ``text``.
        picture: content of an image file.
        sound: content of a sound file.
    """

    label: tuple[str, ...]
    text: str = ""
    pair: str | None = None
    choices: tuple[str, ...] | None = None
    negative: str | None = None
    picture: bytes | None = None
    sound: bytes | None = None


Reader = Callable[[TableRow, Counter[str]], Record | None]
"""Reads a row, or counts why it cannot be used."""
