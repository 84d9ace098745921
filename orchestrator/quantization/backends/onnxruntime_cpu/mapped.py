"""A model file whose weights are mapped into memory, not read.

ONNX Runtime parses a model file whole and copies every weight, which is most of the time until a
first answer. It maps weights that lie in a file of their own ("external data"). So the model file
stands for both: the runtime gets the graph without its large weights, and for each of them its
place in the file. Replicas of a host share the pages. Kernels read floats at aligned places, so
``aligned`` moves the weights there when a model is written; where they are not, they are copied.

Only the outermost layers of the format are read here, because serving does not import onnx: fields
of ``ModelProto``, ``GraphProto`` and ``TensorProto`` (onnx.proto), in the encoding of protobuf.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SMALLEST: Final = 1 << 14
"""Bytes of a weight that is mapped; smaller ones stay in the graph."""
ALIGNMENT: Final = 64
"""Bytes; the runtime's own buffers begin at multiples of it."""
GRAPH: Final = 7
"""Field of a model."""
INITIALIZER: Final = 5
"""Field of a graph."""
RAW_DATA, DOC_STRING, EXTERNAL_DATA, DATA_LOCATION = 9, 12, 13, 14
"""Fields of a tensor."""
LENGTH_BYTES: Final = 5
"""Bytes of lengths that are written before what they count is known: enough for 2 GiB."""
KEY, VALUE = 1, 2
"""Fields of an entry of external data."""
EXTERNAL: Final = 1
"""Value of ``DATA_LOCATION``."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Encodings of values."""

Content = bytes | mmap.mmap
Field = tuple[int, int, int, int]
"""Number; places of the field's first byte, of its value's first byte, and of the byte behind."""


def graph_of(path: Path) -> bytes:
    """Return a model that names the file for its large weights.

    Args:
        path: An ONNX file; the runtime must look for external data in its folder.

    Raises:
        ValueError: It is not in the encoding of protobuf, or it ends early.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts = []
        for number, first, start, stop in _fields(data, 0, len(data)):
            if number == GRAPH:
                parts.append(_bytes(GRAPH, _graph(data, start, stop, path.name)))
            else:
                parts.append(data[first:stop])
    return b"".join(parts)


def aligned(model: bytes) -> bytes:
    """Return the same model with its large weights at aligned places.

    A description of blanks before the values of a weight moves them.

    Args:
        model: Content of an ONNX file.
    """
    parts = _Parts()
    for number, first, start, stop in _fields(model, 0, len(model)):
        if number == GRAPH:
            inner = _Parts(parts.size + len(_long(GRAPH, 0)))
            for each, begin, value, end in _fields(model, start, stop):
                if each == INITIALIZER and end - value >= SMALLEST:
                    inner.add(_moved(model, value, end, inner.size))
                else:
                    inner.add(model[begin:end])
            parts.add(_long(GRAPH, inner.size - inner.start), *inner.parts)
        else:
            parts.add(model[first:stop])
    return b"".join(parts.parts)


class _Parts:
    """Bytes of a file from a place on."""

    def __init__(self, start: int = 0) -> None:
        self.start = self.size = start
        self.parts: list[bytes] = []

    def add(self, *parts: bytes) -> None:
        """Append."""
        self.parts += parts
        self.size += sum(map(len, parts))


def _moved(model: bytes, start: int, stop: int, place: int) -> bytes:
    """Return the field of a weight that will begin at a place, its raw bytes last and aligned."""
    others, values = [], b""
    for number, first, inner, end in _fields(model, start, stop):
        if number == RAW_DATA:
            values = model[inner:end]
        else:
            others.append(model[first:end])
    head = b"".join(others)
    before = _long(RAW_DATA, len(values))
    behind = place + len(_long(INITIALIZER, 0)) + len(head) + len(_bytes(DOC_STRING, b""))
    blanks = b" " * (-(behind + len(before)) % ALIGNMENT)
    tensor = b"".join([head, _bytes(DOC_STRING, blanks), before, values])
    return _long(INITIALIZER, len(tensor)) + tensor


def _graph(data: Content, start: int, stop: int, name: str) -> bytes:
    parts = []
    for number, first, inner, end in _fields(data, start, stop):
        large = number == INITIALIZER and end - inner >= SMALLEST
        tensor = _tensor(data, inner, end, name) if large else b""
        parts.append(_bytes(INITIALIZER, tensor) if tensor else data[first:end])
    return b"".join(parts)


def _tensor(data: Content, start: int, stop: int, name: str) -> bytes:
    """Return a tensor whose values are external; nothing if they are no aligned raw bytes."""
    kept, place = [], None
    for number, first, inner, end in _fields(data, start, stop):
        if number == RAW_DATA:
            place = (inner, end - inner)
        elif number == EXTERNAL_DATA:
            return b""
        elif number != DATA_LOCATION:
            kept.append(data[first:end])
    if place is None or place[0] % ALIGNMENT:
        return b""
    entries = {"location": name, "offset": str(place[0]), "length": str(place[1])}
    for key, value in entries.items():
        entry = _bytes(KEY, key.encode()) + _bytes(VALUE, value.encode())
        kept.append(_bytes(EXTERNAL_DATA, entry))
    return b"".join([*kept, _varint(DATA_LOCATION << 3 | VARINT), _varint(EXTERNAL)])


def _fields(data: Content, place: int, stop: int) -> Iterator[Field]:
    while place < stop:
        first = place
        tag, place = _read_varint(data, place, stop)
        number, encoding = tag >> 3, tag & 7
        if encoding == VARINT:
            end = _read_varint(data, place, stop)[1]
        elif encoding == BYTES:
            size, place = _read_varint(data, place, stop)
            end = place + size
        elif encoding in (FIXED32, FIXED64):
            end = place + (4 if encoding == FIXED32 else 8)
        else:
            raise ValueError(f"byte {first} does not begin a field")
        if end > stop:
            raise ValueError(f"the field at byte {first} ends behind what holds it")
        yield number, first, place, end
        place = end


def _read_varint(data: Content, place: int, stop: int) -> tuple[int, int]:
    """Return a number of 7 bits per byte, and the place behind it."""
    value = shift = 0
    while place < stop:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError(f"it ends in a number at byte {place}")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _long(number: int, length: int) -> bytes:
    """Return the beginning of a field of a number of bytes, always as long."""
    steps = [length >> 7 * place & 127 | 128 for place in range(LENGTH_BYTES)]
    steps[-1] &= 127
    return _varint(number << 3 | BYTES) + bytes(steps)
