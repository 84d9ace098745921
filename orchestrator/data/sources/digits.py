"""``builtin:digits``: scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998)."""

from io import BytesIO

import numpy as np
import numpy.typing as npt

from orchestrator.data.rows.rows import Rows
from orchestrator.data.sources.contents import Entries, Entry
from orchestrator.data.spec import DatasetSpec

LEVELS = 16  # grey levels of a pixel are 0..16
SIDE = 8  # pixels
Pixels = npt.NDArray[np.uint8]


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
