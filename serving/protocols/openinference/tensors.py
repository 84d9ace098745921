"""Tensors of the Open Inference Protocol: in JSON, and in its binary extension.

With the extension a body is a JSON object, whose length ``Inference-Header-Content-Length`` states,
followed by the bytes of the tensors that state a ``binary_data_size``, in their order. Numbers are
little-endian and row-major; an element of BYTES is its length (4 bytes) and its bytes.

Shapes: any; N elements.
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from orchestrator.arrays import AnyArray
from serving.guard.errors import ErrorType, ServingError
from serving.protocols.messages import read
from serving.protocols.openinference.bodies import InferRequest, InputTensor
from serving.protocols.protocol import Received

HEADER_LENGTH: Final = "inference-header-content-length"
BINARY: Final = "application/octet-stream"
BYTES: Final = "BYTES"
DTYPES: Final[dict[str, str]] = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
"""Datatype of the protocol → that of NumPy."""
_LENGTH: Final = struct.Struct("<I")


def parse(received: Received) -> InferRequest:
    """Read the body of an inference request, with or without binary tensors.

    Raises:
        ServingError: It is not one, or its sizes do not fit together.
    """
    content = received.content
    stated = received.headers.get(HEADER_LENGTH)
    if stated is None:
        return read(InferRequest, content, received.max_depth)
    if not (stated.isascii() and stated.isdigit() and int(stated[:12]) <= len(content)):
        message = f"`Inference-Header-Content-Length` must be 0 to {len(content)}, the body's size."
        raise ServingError(ErrorType.MALFORMED, message)
    body = read(InferRequest, content[: int(stated)], received.max_depth)
    rest = memoryview(content)[int(stated) :]
    for index, tensor in enumerate(body.inputs):
        size = None if tensor.parameters is None else tensor.parameters.binary_data_size
        if size is not None:
            if size > len(rest):
                raise _refusal(index, f"states {size} binary bytes, {len(rest)} are left")
            body.binary[tensor.name] = bytes(rest[:size])
            rest = rest[size:]
    if len(rest):
        message = f"{len(rest)} bytes behind the tensors belong to none of them."
        raise ServingError(ErrorType.MALFORMED, message)
    return body


def arrays(body: InferRequest) -> dict[str, AnyArray]:
    """Return the input tensors by name; BYTES as objects: bytes, or str where they came as JSON.

    Raises:
        ServingError: A tensor is given twice, its data do not fit its shape or type, or a number
            is not finite.
    """
    found: dict[str, AnyArray] = {}
    for index, tensor in enumerate(body.inputs):
        if tensor.name in found:
            raise _refusal(index, "is given twice")
        try:
            found[tensor.name] = _array(tensor, body.binary.get(tensor.name))
        except _WrongError as error:
            raise _refusal(index, error) from error
    return found


def texts(values: AnyArray, name: str) -> list[str]:
    """Return the elements of a BYTES tensor [B] or [B, 1] as texts.

    Raises:
        ServingError: It has another shape or type, or an element is not UTF-8.
    """
    if values.dtype != object:
        message = f"`{name}` must be of datatype BYTES."
        raise ServingError(ErrorType.VALIDATION, message)
    if values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 1):
        message = f"`shape` of `{name}` must be [B] or [B, 1] for B texts."
        raise ServingError(ErrorType.VALIDATION, message)
    try:
        return [each if isinstance(each, str) else each.decode() for each in values.ravel()]
    except UnicodeDecodeError as error:
        raise ServingError(ErrorType.VALIDATION, f"`{name}` has a text not in UTF-8.") from error


def files(values: AnyArray, name: str) -> list[bytes]:
    """Return the elements of a BYTES tensor as files; those in JSON are base64.

    Raises:
        ServingError: It has another type, or an element is not base64.
    """
    if values.dtype != object:
        raise ServingError(ErrorType.VALIDATION, f"`{name}` must be of datatype BYTES.")
    return [from_base64(each, name) if isinstance(each, str) else each for each in values.ravel()]


def from_base64(text: str, name: str) -> bytes:
    """Return the bytes of a base64 text, with or without the beginning of a ``data:`` URL.

    Raises:
        ServingError: It is not base64.
    """
    start = text.find(";base64,") + len(";base64,") if text.startswith("data:") else 0
    try:
        return base64.b64decode(text[start:], validate=True)
    except (ValueError, binascii.Error) as error:
        raise ServingError(ErrorType.VALIDATION, f"`{name}` has a file not in base64.") from error


def to_bytes(values: AnyArray) -> bytes:
    """Return a tensor in the binary form; objects are texts."""
    if values.dtype != object:
        return values.astype(values.dtype.newbyteorder("<")).tobytes()
    parts = (str(each).encode() for each in values.ravel())
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def joined(answer: dict[str, Any], binary: Sequence[bytes]) -> tuple[bytes, int]:
    """Return the body of an answer with binary tensors, and the length of its JSON."""
    head = json.dumps(answer, ensure_ascii=False).encode()
    return b"".join([head, *binary]), len(head)


def _array(tensor: InputTensor, raw: bytes | None) -> AnyArray:
    if (raw is None) == (tensor.data is None):
        raise _WrongError("needs either `data` or binary data with its `binary_data_size`")
    count = prod(tensor.shape)
    values = _from_json(tensor) if raw is None else _from_binary(tensor, raw)
    if len(values) != count:
        raise _WrongError(f"has {len(values)} elements; `shape` {tensor.shape} asks for {count}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _WrongError("has values that are NaN or infinite")
    return values.reshape(tensor.shape)


def _from_binary(tensor: InputTensor, raw: bytes) -> AnyArray:
    if tensor.datatype == BYTES:
        return _objects(list(_elements(tensor, raw)))
    dtype = np.dtype(DTYPES[tensor.datatype])
    if len(raw) % dtype.itemsize:
        raise _WrongError(f"has {len(raw)} bytes, not whole elements of {tensor.datatype}")
    return np.frombuffer(raw, dtype)


def _from_json(tensor: InputTensor) -> AnyArray:
    flat = list(_flat(tensor.data))
    if tensor.datatype == BYTES:
        if not all(isinstance(each, str) for each in flat):
            raise _WrongError("must have texts as elements")
        return _objects(flat)
    wanted = bool if tensor.datatype == "BOOL" else (int, float)
    if not all(isinstance(e, wanted) and isinstance(e, bool) == (wanted is bool) for e in flat):
        raise _WrongError(f"must have elements of {tensor.datatype}")
    dtype = np.dtype(DTYPES[tensor.datatype])
    if dtype.kind in "iu" and not all(_fits(each, dtype) for each in flat):
        raise _WrongError(f"has numbers that {tensor.datatype} does not hold")
    return np.asarray(flat, dtype)


def _fits(value: object, dtype: "np.dtype[Any]") -> bool:
    bounds = np.iinfo(dtype)
    return isinstance(value, int) and bounds.min <= value <= bounds.max


def _objects(values: Sequence[object]) -> AnyArray:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _elements(tensor: InputTensor, raw: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(raw):
        start = place + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, place)[0] if start <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise _WrongError("has binary data that end within an element")
        yield raw[start:end]
        place = end


class _WrongError(ValueError):
    """A problem of a tensor."""


def _refusal(index: int, problem: object) -> ServingError:
    return ServingError(ErrorType.VALIDATION, f"`inputs[{index}]` {problem}.")
