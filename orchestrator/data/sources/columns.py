"""Choice of the columns of a table, and of the usable texts in them."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from orchestrator.config import did_you_mean, nearest
from orchestrator.errors import InputError

TEXT_COLUMNS = ("text", "text_a", "sentence", "content", "document")
PAIR_COLUMNS = ("text_b",)
LABEL_COLUMNS = ("label", "labels", "class")
CHOICE_COLUMNS = ("choices", "endings", "options", "candidates")  # lists of candidates
MEDIA_COLUMNS = ("path", "image", "audio", "file")
MEDIA_SUFFIXES = {
    "picture": frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}),
    "sound": frozenset({".wav", ".flac", ".ogg", ".mp3"}),
}


def find_column(
    wanted: str | None, usual: Iterable[str], columns: Iterable[str], what: str, path: Path
) -> str | None:
    """Return the column to read, or None where none is asked for and no usual one is there.

    Raises:
        InputError: The column that is asked for is not there.
    """
    names = list(columns)
    if wanted is None:
        return next((name for name in usual if name in names), None)
    if wanted not in names:
        raise InputError(
            f"{path}: no column {wanted!r} for the {what}. {did_you_mean(wanted, names, 'Columns')}"
        )
    return wanted


def missing_column(option: str, usual: Iterable[str], row: Iterable[str], path: Path) -> str:
    """Return the message for a table in which no usual column is found."""
    names, wanted = list(row), list(usual)
    near = next((name for name in names if nearest(name, wanted)), None)
    guess = "" if near is None else f" Is it {near!r}?"
    return (
        f"{path}: no column called {', '.join(wanted)}. Name one with {option}.{guess} "
        f"Columns: {', '.join(names)}."
    )


def usable_text(text: object, rejected: Counter[str]) -> str | None:
    """Return a text without outer blanks, or count why it cannot be used."""
    if text is None:
        rejected["text missing"] += 1
    elif not isinstance(text, str):
        rejected["text is not a string"] += 1
    elif not (stripped := text.strip()):
        rejected["empty text"] += 1
    else:
        return stripped
    return None
