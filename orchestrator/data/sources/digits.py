"""``builtin:digits`` and ``builtin:digit_scenes``: handwritten digits, alone and in scenes.

Digits are scikit-learn's 1,797 (UCI, Alpaydin and Kaynak 1998). A scene shows four of them, two by
two. Which digits it shows, and the words of its caption, depend on (seed, split, number of the
picture) alone. A handwritten digit is in pictures of one split only, so a caption of the validation
split cannot be found by recognizing a digit that was seen in training.
"""

from io import BytesIO

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import IntArray
from orchestrator.data.randomness import Purpose, draw, permutation
from orchestrator.data.rows.rows import Rows
from orchestrator.data.sources.contents import TRAIN, VALIDATION, Entries, Entry
from orchestrator.data.spec import DatasetSpec

LEVELS = 16  # grey levels of a pixel are 0..16
SIDE = 8  # pixels
Pixels = npt.NDArray[np.uint8]

SCENES_FORMAT = 1  # part of the identity of scenes
SCENES = 4000  # without a cap
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = (
    "{0} {1} above {2} {3}",
    "{0} left of {1}, below them {2} and {3}",
    "{0} above {2}, right of them {1} above {3}",
)
"""Numbers are places: top left, top right, bottom left, bottom right."""


def read_digits() -> Rows:
    """Return all digits: images float32 [1797, 1, 8, 8] in [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / LEVELS).astype(np.float32)[:, None]
    return Rows([], None, found.target.astype(np.int64), images)


def digit_pixels(digits: Rows) -> Pixels:
    """Return the digits in bytes, uint8 [1797, 8, 8]."""
    if digits.images is None:
        raise ValueError("these rows are not digits")
    pixels: Pixels = np.rint(digits.images[:, 0] * 255).astype(np.uint8)
    return pixels


def png(pixels: Pixels) -> bytes:
    """Return a grey picture [height, width] as a PNG file."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def digit_entries(spec: DatasetSpec) -> Entries:
    """Return the digits as pictures."""
    pixels = digit_pixels(read_digits())[: spec.max_rows]
    found = [Entry(key=str(index), place=index) for index in range(len(pixels))]
    identity: dict[str, object] = {"builtin": "digits", "rows": len(found)}
    return Entries(lambda: identity, found, lambda entry: png(pixels[entry.place]))


def scene_entries(spec: DatasetSpec) -> Entries:
    """Return as many pictures as the cap says (4,000 without one)."""
    rows = spec.max_rows or SCENES
    held_out = max(1, round(rows * spec.validation_fraction))
    digits = read_digits()
    pixels, labels = digit_pixels(digits), digits.labels
    order = permutation(spec.seed, 0, len(labels))
    border = round(len(order) * spec.validation_fraction)
    sides = ((TRAIN, order[border:], rows - held_out), (VALIDATION, order[:border], held_out))
    found = [
        entry
        for number, (split, members, count) in enumerate(sides)
        for entry in _scenes(spec.seed, number, split, members, labels, count)
    ]
    identity: dict[str, object] = {
        "builtin": "digit_scenes",
        "format": SCENES_FORMAT,
        "rows": rows,
        "seed": spec.seed,
        "validation_fraction": spec.validation_fraction,
    }
    return Entries(lambda: identity, found, lambda entry: _picture(pixels[list(entry.place)]))


def _scenes(
    seed: int, number: int, split: str, members: IntArray, labels: IntArray, count: int
) -> list[Entry]:
    """Return the pictures of one split; ``number`` keeps its random numbers apart."""
    words = draw(seed, Purpose.SCENE, number, np.arange(count), 5)[0]
    chosen = members[_below(words[:, :4], len(members))]
    phrases = _below(words[:, 4], len(CAPTIONS))
    captions = [
        CAPTIONS[phrase].format(*(NAMES[labels[place]] for place in row))
        for row, phrase in zip(chosen, phrases, strict=True)
    ]
    return [
        Entry(key=f"{split} {index}", text=caption, split=split, place=tuple(row.tolist()))
        for index, (row, caption) in enumerate(zip(chosen, captions, strict=True))
    ]


def _below(words: np.ndarray[tuple[int, ...], np.dtype[np.uint32]], limit: int) -> IntArray:
    """Map 32-bit words evenly to 0 ... limit - 1."""
    return (words.astype(np.uint64) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)


def _picture(four: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return four digits [4, 8, 8] as a PNG file of 16 by 16 pixels."""
    return png(np.block([[four[0], four[1]], [four[2], four[3]]]))
