"""Models of the bodies and answers of the Open Inference Protocol."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, PrivateAttr, field_validator
from pydantic.config import JsonDict

from serving.protocols.messages import FIRST_ERROR, Message, RequestBody

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
Size = Annotated[int, Field(ge=0)]

_EXAMPLE: Final[JsonDict] = {
    "inputs": [
        {
            "name": "text",
            "datatype": "BYTES",
            "shape": [1],
            "data": ["Return the sum of the elements."],
        }
    ],
    "parameters": {"truncate": True},
}


class InputParameters(Message):
    """Options of a tensor; others are ignored, as the protocol says."""

    binary_data_size: Size | None = None
    """Bytes behind the JSON object that are the elements (binary extension)."""


class InputTensor(Message):
    """A column of inputs."""

    name: str
    """One of the inputs in the metadata of the model."""
    datatype: Datatype
    """Type of the elements."""
    shape: Annotated[list[Size], Field(min_length=1, max_length=8)]
    """``[B]`` or ``[B, 1]`` for B texts."""
    data: Annotated[list[Any], FIRST_ERROR] | str | None = None
    """The elements, flat or nested, row-major; null: they are in binary form."""
    parameters: InputParameters | None = None
    """Options."""


class OutputParameters(Message):
    """Options of an output tensor; others are ignored, as the protocol says."""

    binary_data: bool | None = None
    """Answer in binary form (binary extension); null: as the whole request says."""
    classification: Literal[0] = 0
    """Not offered: ask for ``NAME.label`` or ``NAME.scores``."""


class OutputName(Message):
    """An output tensor that is asked for."""

    name: str
    """One of the outputs in the metadata of the model."""
    parameters: OutputParameters | None = None
    """Options."""


class InferParameters(Message):
    """Options of the whole request; others are ignored, as the protocol says."""

    truncate: bool | None = None
    """Cut texts that are too long; otherwise they are refused. Null: as ``auto_truncate``."""
    prompt_name: str | None = None
    """Prompt that the package states, put before the texts of ``embedding``."""
    binary_data_output: bool = False
    """Answer all tensors in binary form (binary extension)."""


class InferRequest(RequestBody):
    """Tensors to run the model on."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str | None = None
    """Any text; the answer repeats it."""
    parameters: InferParameters | None = None
    """Options."""
    inputs: Annotated[list[InputTensor], FIRST_ERROR]
    """Input tensors."""
    outputs: Annotated[list[OutputName], FIRST_ERROR] | None = None
    """Wanted output tensors; null means those of the default target."""
    _binary: dict[str, bytes] = PrivateAttr(default_factory=dict)

    @property
    def binary(self) -> dict[str, bytes]:
        """Name of an input tensor → its elements in binary form."""
        return self._binary

    @field_validator("parameters", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """Accept any empty value: some clients send ``[]``."""
        return value or None


class OutputTensor(Message):
    """A result, flattened in row-major order."""

    name: str
    """Name of the tensor."""
    datatype: Datatype
    """Type of the elements."""
    shape: list[int]
    """B rows, for scores and embeddings [B, K] or [B, D]."""
    data: list[float] | list[int] | list[str] | None = Field(
        None, exclude_if=lambda data: data is None
    )
    """The elements; left out where they are in binary form."""
    parameters: InputParameters | None = Field(None, exclude_if=lambda given: given is None)
    """``binary_data_size`` of elements in binary form; else left out."""


class InferAnswer(Message):
    """Output tensors."""

    id: str | None = Field(None, exclude_if=lambda identifier: identifier is None)
    """The text of the request; left out when it had none."""
    model_name: str
    """Package name."""
    model_version: str
    """Package version."""
    outputs: list[OutputTensor]
    """Tensors in the order they were asked for."""


class ServerMetadata(Message):
    """The server."""

    name: str
    """Name of this software."""
    version: str
    """Its version."""
    extensions: list[str]
    """Optional parts of the protocol that it implements."""


class TensorMetadata(Message):
    """Name, type and shape of a tensor."""

    name: str
    """Name."""
    datatype: Datatype
    """Type of the elements."""
    shape: list[int]
    """-1: as many as there are texts."""


class Port(Message):
    """A tensor, as Triton's model configuration describes it."""

    name: str
    """Name."""
    data_type: str
    """``TYPE_STRING``, ``TYPE_FP32`` ..."""
    dims: list[int]
    """Shape without its first dimension; -1: any."""


class ModelConfiguration(Message):
    """The served package, as Triton's model configuration describes it."""

    name: str
    """Package name."""
    platform: str
    """``onnxruntime`` or ``torch``."""
    max_batch_size: int
    """Most inputs of a request."""
    input: list[Port]
    """Tensors that a request may give."""
    output: list[Port]
    """Tensors that a request may ask for."""


class IndexEntry(Message):
    """A served version."""

    name: str
    """Package name."""
    version: str
    """Package version."""
    state: Literal["READY", "UNAVAILABLE"]
    """Whether it can answer."""
    reason: str = ""
    """Reason why it cannot."""


class ModelParameters(Message):
    """Properties that the protocol has no field for."""

    labels: dict[str, list[str]]
    """Target -> its label names in order."""


class ModelMetadata(Message):
    """The served package."""

    name: str
    """Package name."""
    versions: list[str]
    """Package versions that are served: one."""
    platform: str
    """``onnxruntime`` or ``torch``."""
    inputs: list[TensorMetadata]
    """Tensors that a request must give."""
    outputs: list[TensorMetadata]
    """Tensors that a request may ask for."""
    parameters: ModelParameters
    """Class names."""


class Live(Message):
    """The process answers."""

    live: Literal[True] = True
    """Always true."""


class Ready(Message):
    """The model can answer."""

    ready: Literal[True] = True
    """Always true; a model that cannot answer gives an error."""
