"""Input tensors of the Open Inference Protocol as what is asked.

Shapes: B inputs, S tokens, C candidates, H, W pixels, N samples.
"""

from collections.abc import Sequence

import numpy as np

from orchestrator.arrays import AnyArray
from orchestrator.inference.inputs import Item
from serving.guard.errors import ErrorType, ServingError
from serving.model.files import image_file, sound_file
from serving.protocols.openinference.tensors import files, texts


def files_of(tensors: dict[str, AnyArray], reads: str, rate: int) -> list[bytes]:
    """Return images or recordings as files.

    Args:
        tensors: One of them: files (BYTES, [B]; in JSON base64), pixels (UINT8, [H, W, 3] or [B, H,
            W, 3]; or one channel), or samples in [-1, 1] (FP32, [N] or [B, N]).
        reads: ``image`` or ``audio``, which is the name of the tensor.
        rate: Samples per second of the model.

    Raises:
        ServingError: The tensor is missing or has another type or shape.
    """
    if set(tensors) != {reads}:
        raise ServingError(ErrorType.VALIDATION, f"The one input tensor must be `{reads}`.")
    values = tensors[reads]
    if values.dtype == object:
        return files(values, reads)
    if reads == "image":
        if values.dtype != np.uint8 or values.ndim not in (3, 4) or values.shape[-1] not in (1, 3):
            message = "`image` must be BYTES [B], or UINT8 [H, W, 3] or [B, H, W, 3]."
            raise ServingError(ErrorType.VALIDATION, message)
        return [image_file(each) for each in (values[None] if values.ndim == 3 else values)]
    if values.dtype.kind != "f" or values.ndim not in (1, 2):
        message = "`audio` must be BYTES [B], or FP32 [N] or [B, N]."
        raise ServingError(ErrorType.VALIDATION, message)
    return [sound_file(each, rate) for each in np.atleast_2d(values)]


def items_of(tensors: dict[str, AnyArray]) -> list[Item]:
    """Return what is asked.

    Raises:
        ServingError: The tensors are not those of one form of input, or do not fit together.
    """
    names = set(tensors)
    if "input_ids" in names and names <= {"input_ids", "attention_mask"}:
        return _of_ids(tensors["input_ids"], tensors.get("attention_mask"))
    if "text" not in names or names - {"text", "text_pair", "choices"} or len(names) > 2:
        message = (
            "The inputs must be `text`, alone or with one of `text_pair` and `choices`; or "
            "`input_ids`, alone or with `attention_mask`."
        )
        raise ServingError(ErrorType.VALIDATION, message)
    first = texts(tensors["text"], "text")
    nothing: list[str | None] = [None] * len(first)
    pairs: Sequence[str | None] = nothing
    if "text_pair" in names:
        pairs = texts(tensors["text_pair"], "text_pair")
    choices: Sequence[tuple[str, ...]] = [()] * len(first)
    if "choices" in names:
        choices = _choices(tensors["choices"])
    if not len(first) == len(pairs) == len(choices):
        message = f"The inputs have different lengths: `text` has {len(first)}."
        raise ServingError(ErrorType.VALIDATION, message)
    return [Item(*each) for each in zip(first, pairs, choices, strict=True)]


def _choices(values: AnyArray) -> list[tuple[str, ...]]:
    if values.ndim != 2 or not values.shape[1]:
        message = "`shape` of `choices` must be [B, C] for C candidates each."
        raise ServingError(ErrorType.VALIDATION, message)
    return [tuple(texts(row, "choices")) for row in values]


def _of_ids(ids: AnyArray, mask: AnyArray | None) -> list[Item]:
    if ids.ndim not in (1, 2) or ids.dtype.kind not in "iu":
        message = "`input_ids` must be integers of shape [B, S] or [S]."
        raise ServingError(ErrorType.VALIDATION, message)
    if mask is None:
        mask = np.ones_like(ids)
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        message = "`attention_mask` must have the shape of `input_ids`, 1 where a token is real."
        raise ServingError(ErrorType.VALIDATION, message)
    rows = zip(np.atleast_2d(ids), np.atleast_2d(mask), strict=True)
    return [Item("", tokens=tuple(row[real.astype(bool)].tolist())) for row, real in rows]
