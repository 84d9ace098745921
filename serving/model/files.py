"""Images and recordings that a request holds: bounded before they are decoded."""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np

from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError
from serving.guard.errors import ErrorType, ServingError

MAX_PIXELS: Final = 50_000_000
"""Largest image: a small file may hold a huge one."""
MAX_SECONDS: Final = 600.0
"""Longest recording."""


def rows_of_files(contents: Sequence[bytes], modality: str) -> Rows:
    """Return files as rows without labels.

    Args:
        contents: At least one image or recording.
        modality: ``image`` or ``audio``.

    Raises:
        ServingError: A file is empty, cannot be decoded, or is too large when it is.
    """
    for index, content in enumerate(contents):
        try:
            size, most = _size(content, modality)
        except Exception as error:  # decoders raise many types; all mean the same here
            message = f"Input {index} cannot be read as {modality}."
            raise ServingError(ErrorType.VALIDATION, message) from error
        if size > most:
            unit = "pixels" if modality == "image" else "seconds"
            message = f"Input {index} has {size:.0f} {unit}; {most:.0f} are allowed."
            raise ServingError(ErrorType.TOO_LARGE, message)
    labels = np.zeros(len(contents), dtype=np.int64)
    if modality == "image":
        return Rows([], None, labels, pictures=list(contents))
    return Rows([], None, labels, sounds=list(contents))


def _size(content: bytes, modality: str) -> tuple[float, float]:
    """Return the size of a file when it is decoded, and the most that is allowed."""
    if modality == "image":
        from PIL import Image

        with Image.open(io.BytesIO(content)) as image:
            return float(image.width * image.height), MAX_PIXELS
    import soundfile  # type: ignore[import-untyped]

    found = soundfile.info(io.BytesIO(content))
    if not found.frames:
        raise InputError("the recording is empty")
    return found.frames / found.samplerate, MAX_SECONDS


def image_file(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> bytes:
    """Return pixels [H, W], [H, W, 1] or [H, W, 3] as a file."""
    from PIL import Image

    content = io.BytesIO()
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    Image.fromarray(flat).save(content, "PNG")
    return content.getvalue()


def sound_file(samples: "np.ndarray[tuple[int, ...], np.dtype[np.floating]]", rate: int) -> bytes:
    """Return samples [N] in [-1, 1] as a file."""
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, samples.astype(np.float32), rate, format="WAV", subtype="FLOAT")
    return content.getvalue()
