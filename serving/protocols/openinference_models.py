"""Models of the bodies and answers of the Open Inference Protocol."""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.config import JsonDict

from serving.protocols.messages import FIRST_ERROR, Message, RequestBody

Datatype = Literal["BYTES", "FP32"]

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


class InputTensor(Message):
    """A column of texts."""

    name: str
    """``text``, or ``text_pair`` for the second text of pairs."""
    datatype: Literal["BYTES"]
    """Type of the elements."""
    shape: Annotated[list[int], Field(min_length=1, max_length=2)]
    """``[B]`` or ``[B, 1]`` for B texts."""
    data: str | Annotated[list[str], FIRST_ERROR]
    """The texts."""


class OutputName(Message):
    """An output tensor that is asked for."""

    name: str
    """One of the outputs in the metadata of the model."""


class InferParameters(Message):
    """Options of the whole request; others are ignored, as the protocol says."""

    truncate: bool = False
    """Cut texts that are too long; otherwise they are refused."""
    prompt_name: str | None = None
    """Prompt that the package states, put before the texts of ``embedding``."""


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
    data: list[float] | list[str]
    """The elements."""


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
