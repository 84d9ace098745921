"""Constants of a graph: one initializer for equal arrays."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from orchestrator.errors import InputError

PROTOBUF_LIMIT_BYTES: Final = 2**31 - 2**20
"""Protobuf allows 2 GiB per message; 1 MiB is left for nodes and names."""
COMPARED_BYTES: Final = 64
"""Bytes at both ends of two arrays that are compared first."""


class Constants:
    """Initializers by name. Layers that share their weights cost no more than one of them."""

    def __init__(self) -> None:
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._names: dict[str, str] = {}
        self._alike: dict[tuple[Any, ...], list[str]] = {}

    @property
    def tensors(self) -> list[onnx.TensorProto]:
        """The initializers."""
        return list(self._tensors.values())

    @property
    def bytes(self) -> int:
        """Size of their contents."""
        return sum(len(tensor.raw_data) for tensor in self._tensors.values())

    def require_size(self) -> None:
        """Require that one protobuf file holds them.

        Raises:
            InputError: They are too large.
        """
        if self.bytes > PROTOBUF_LIMIT_BYTES:
            raise InputError(
                f"the model has {self.bytes:,} bytes of parameters; one ONNX file holds at most "
                f"{PROTOBUF_LIMIT_BYTES:,}: quantize more of its units or use a smaller model"
            )

    def add(self, name: str, array: npt.NDArray[Any]) -> str:
        """Store an array once and return its name: the first one of equal arrays."""
        if name not in self._names:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
            content = tensor.raw_data
            key = (array.shape, array.dtype, content[:COMPARED_BYTES], content[-COMPARED_BYTES:])
            stored = self._alike.setdefault(key, [])
            for other in stored:
                if self._tensors[other].raw_data == content:
                    self._names[name] = other
                    return other
            stored.append(name)
            self._tensors[name], self._names[name] = tensor, name
        return self._names[name]
