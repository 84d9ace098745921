"""Labelled rows: one as it was read, many in memory, and the task they belong to."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.errors import InputError

WORD_BREAK = "\n"
"""Between the words of a text that has a tag for each."""
TableRow = Mapping[str, object]
"""Cells of one row of a table, by column."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one split: texts (or pairs of texts), images or sounds, and a label each.

    Attributes:
        texts: N texts; empty for images and sounds.
        pairs: N second texts, or None.
        labels: Class of each row, int64 [N]; or in another of the ``label_forms``.
        images: float32 [N, C, height, width] in [0, 1], or None.
        choices: candidates of N rows, one of them right, or None.
        negatives: N texts that do not belong to ``texts``, or None.
        pictures: content of N image files, or None; decoded when a batch is made.
        sounds: content of N sound files, or None; decoded when a batch is made.
        slices: name of the slice of N rows, or None; no part of what a row is.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: npt.NDArray[Any]
    images: Float32Array | None = None
    choices: list[tuple[str, ...]] | None = None
    negatives: list[str] | None = None
    pictures: list[bytes] | None = None
    sounds: list[bytes] | None = None
    slices: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def words(self) -> list[list[str]]:
        """The words of each text, where each has a tag."""
        return [text.split(WORD_BREAK) for text in self.texts]

    def take(self, indices: Sequence[int] | IntArray) -> "Rows":
        """Return the rows at these indices, in their order."""
        index = np.asarray(indices, dtype=np.int64)
        return Rows(
            [self.texts[i] for i in index] if self.texts else [],
            None if self.pairs is None else [self.pairs[i] for i in index],
            self.labels[index],
            None if self.images is None else self.images[index],
            None if self.choices is None else [self.choices[i] for i in index],
            None if self.negatives is None else [self.negatives[i] for i in index],
            None if self.pictures is None else [self.pictures[i] for i in index],
            None if self.sounds is None else [self.sounds[i] for i in index],
            None if self.slices is None else [self.slices[i] for i in index],
        )

    @property
    def media(self) -> list[bytes]:
        """Content of the image or sound files; empty where there are none."""
        return self.pictures or self.sounds or []

    @property
    def modality(self) -> Literal["text", "pair", "choices", "image", "audio"]:
        """Content of the rows, as task kinds name it."""
        if self.images is not None or self.pictures is not None:
            return "image"
        if self.sounds is not None:
            return "audio"
        if self.choices is not None:
            return "choices"
        return "text" if self.pairs is None else "pair"


def row_keys(rows: Rows) -> list[str]:
    """Return what identifies each row: its texts with blanks folded, or its pixels or sound."""
    if rows.images is not None:
        return [image.tobytes().hex() for image in rows.images]
    media = rows.pictures if rows.pictures is not None else rows.sounds
    if media is not None:
        return [sha256(content).hexdigest() for content in media]
    parts: list[Iterable[Iterable[str]]] = [([text] for text in rows.texts)]
    parts += [([text] for text in texts) for texts in (rows.pairs, rows.negatives) if texts]
    parts += [rows.choices] if rows.choices is not None else []
    return [
        "\x00".join(" ".join(text.split()) for part in row for text in part)
        for row in zip(*parts, strict=True)
    ]


def require_pairs(rows: Rows) -> None:
    """Refuse rows with one text.

    Raises:
        InputError: They have one, or are images.
    """
    if rows.pairs is None:
        raise InputError(
            "these rows have no second text. Give a column text_b, or name it with pair_column."
        )


@dataclass(frozen=True, eq=False)
class TaskData:
    """One labelled task.

    Attributes:
        name: Name of the task.
        label_names: Name of each class, tag or label; numbers have none.
        train: Rows to learn from.
        validation: Rows to choose by.
        test: Rows to report on.
        rejected: Number of rows left out, by reason.
        notes: Sentences about what was read in another way than it is written.
    """

    name: str
    label_names: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows
    rejected: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Rows:
        """Return the split called train, validation or test.

        Raises:
            ValueError: There is no such split.
        """
        if name not in ("train", "validation", "test"):
            raise ValueError(f"{name!r} is not a split. Use train, validation or test.")
        rows: Rows = getattr(self, name)
        return rows

    @cached_property
    def majority_accuracy(self) -> float:
        """Test accuracy of always answering the class that is most frequent in training.

        Of tasks whose labels are classes.
        """
        answer = np.bincount(self.train.labels, minlength=len(self.label_names)).argmax()
        return float((self.test.labels == answer).mean())


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
        slice: name of its slice.
    """

    label: tuple[str, ...]
    text: str = ""
    pair: str | None = None
    choices: tuple[str, ...] | None = None
    negative: str | None = None
    picture: bytes | None = None
    sound: bytes | None = None
    slice: str | None = None


Reader = Callable[[TableRow, Counter[str]], Record | None]
"""Reads a row, or counts why it cannot be used."""
