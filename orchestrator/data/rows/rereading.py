"""Labels that only all rows together explain: whole numbers as floats, and lists in one text.

pandas writes the classes 0 and 1 as ``0.0`` and ``1.0`` where their column once had a gap. Tables
also hold several labels in one cell, with commas or semicolons between them or as a list in
brackets. A separator counts only where it shows that the same names come again: some part of one
cell is also in another.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

Label = tuple[str, ...]
FLOAT = re.compile(r"-?\d+\.0")
WHOLE = re.compile(r"-?\d+(\.0)?")
SEPARATORS = (",", ";")
BRACKETS = " []'\""
SHOWN = 40
"""Characters of a label in a message."""


class Reread(NamedTuple):
    """A reading of labels that all of them together allow.

    Attributes:
        change: Returns a label as it is meant; None: it stays.
        note: A sentence about it; empty: nothing is to be said.
    """

    change: Callable[[Label], Label] | None = None
    note: str = ""


AS_READ = Reread()


def whole_numbers(labels: Iterable[Label]) -> Reread:
    """Read ``0.0`` as the class 0 where all labels are whole numbers."""
    words = {word for label in labels for word in label}
    floats = sorted(word for word in words if FLOAT.fullmatch(word))
    if not floats or not all(map(WHOLE.fullmatch, words)):
        return AS_READ
    return Reread(
        lambda label: tuple(word.removesuffix(".0") for word in label),
        f"labels such as {floats[0]} were read as whole numbers ({floats[0].removesuffix('.0')}).",
    )


def lists_as_classes(labels: Iterable[Label]) -> Reread:
    """Say that labels look like lists, although each is read as one class."""
    found = separator(labels)
    if found is None:
        return AS_READ
    return Reread(
        note=f"labels such as {found[1][:SHOWN]!r} look like lists, and each is one class here. If "
        "a row can have several labels, use the kind multilabel instead of classification."
    )


def split_lists(labels: Iterable[Label]) -> Reread:
    """Split texts that hold several names; ``|`` was split before and has no guess in it."""
    known = list(labels)
    found = None if any(len(label) > 1 for label in known) else separator(known)
    if found is None:
        return AS_READ
    mark, example = found
    parts = ", ".join(map(repr, parts_of(example, mark)))
    return Reread(
        lambda label: tuple(dict.fromkeys(part for word in label for part in parts_of(word, mark))),
        f"labels were split at {mark!r}: {example[:SHOWN]!r} is {parts}. Where {mark!r} belongs to "
        "a name, put | between names instead.",
    )


def separator(labels: Iterable[Label]) -> tuple[str, str] | None:
    """Return what separates the names in texts, and such a text; None: each is one name."""
    words = sorted({word for label in labels for word in label})
    if words and all(word[0] == "[" and word[-1] == "]" for word in words):
        return SEPARATORS[0], max(words, key=len)
    for mark in SEPARATORS:
        lists = [word for word in words if len(parts_of(word, mark)) > 1]
        used = Counter(part for word in words for part in {*parts_of(word, mark)})
        again = [word for word in lists if any(used[part] > 1 for part in parts_of(word, mark))]
        if again:
            return mark, again[0]
    return None


def parts_of(word: str, mark: str) -> list[str]:
    """Return the names in a text."""
    listed = word[:1] == "[" and word[-1:] == "]"
    parts = (part.strip(BRACKETS if listed else None) for part in word.split(mark))
    return [part for part in parts if part]
