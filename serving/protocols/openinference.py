"""Open Inference Protocol, version 2 (KServe, Triton, Seldon), JSON form.

A text model has one input tensor ``text`` (BYTES, [B]) and, for tasks on pairs, ``text_pair``. Its
outputs are, per classification target NAME, ``NAME.label`` (BYTES, [B]) and ``NAME.scores``
(FP32, [B, K], classes in the order of the metadata), and ``embedding`` (FP32, [B, D]).
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.config import JsonDict

import orchestrator
from serving.guard.errors import ErrorType, ServingError
from serving.model.card import ModelCard
from serving.model.engine import EMBEDDING
from serving.model.service import probabilities
from serving.model.tokenize import TextInput
from serving.protocols.messages import FIRST_ERROR, Message, RequestBody
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols

Datatype = Literal["BYTES", "FP32"]

_INPUTS: Final = ("text", "text_pair")
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
    """Classification target -> its class names in order."""


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


@protocols.add
class OpenInferenceProtocol(WireProtocol):
    """Health, metadata, inference."""

    class Config(ProtocolConfig):
        """The Open Inference Protocol, version 2."""

        type: Literal["openinference"] = "openinference"

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        missing, unhealthy = ErrorType.NOT_FOUND, ErrorType.UNHEALTHY
        can = "The model can answer."
        live = "The process answers."
        yield Operation("GET", "/v2", "Server metadata.", self.server, ServerMetadata)
        yield Operation("GET", "/v2/health/live", live, self.live, Live)
        yield Operation("GET", "/v2/health/ready", can, self.ready, Ready, errors=(unhealthy,))
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            yield Operation(
                "GET", base, "Model metadata.", self.metadata, ModelMetadata, errors=(missing,)
            )
            yield Operation(
                "GET", f"{base}/ready", can, self.model_ready, Ready, errors=(missing, unhealthy)
            )
            yield Operation(
                "POST", f"{base}/infer", "Run the model.", self.infer, InferAnswer,
                InferRequest, (missing, ErrorType.UNSUPPORTED, ErrorType.TOKENIZER),
            )  # fmt: skip

    async def server(self) -> ServerMetadata:
        """Answer ``GET /v2``."""
        return ServerMetadata(
            name="ray-model-orchestrator", version=orchestrator.__version__, extensions=[]
        )

    async def live(self) -> Live:
        """Answer ``GET /v2/health/live``."""
        return Live()

    async def ready(self) -> Ready:
        """Answer ``GET /v2/health/ready``.

        Raises:
            ServingError: the model is not loaded yet.
        """
        self.service.health.require_ready()
        return Ready()

    async def model_ready(self, model: str, version: str | None = None) -> Ready:
        """Answer ``GET /v2/models/{model}[/versions/{version}]/ready``.

        Raises:
            ServingError: another model or version is served, or it is not loaded yet.
        """
        _check(self.service.card, model, version)
        return await self.ready()

    async def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """Answer ``GET /v2/models/{model}[/versions/{version}]``.

        Raises:
            ServingError: another model or version is served.
        """
        card = self.service.card
        _check(card, model, version)
        return ModelMetadata(
            name=card.name,
            versions=[card.version],
            platform=card.backend,
            inputs=[TensorMetadata(name="text", datatype="BYTES", shape=[-1])],
            outputs=list(_outputs(card).values()),
            parameters=ModelParameters(
                labels={name: list(labels) for name, labels in card.targets.items()}
            ),
        )

    async def infer(
        self, body: InferRequest, model: str, version: str | None = None
    ) -> InferAnswer:
        """Answer ``POST /v2/models/{model}[/versions/{version}]/infer``.

        Raises:
            ServingError: the model, a tensor or an input is not acceptable.
        """
        card = self.service.card
        _check(card, model, version)
        inputs = _texts(body.inputs)
        truncate = body.parameters is not None and body.parameters.truncate
        outputs = await self._run(inputs, _wanted(body.outputs, card), truncate=truncate)
        return InferAnswer(
            id=body.id, model_name=card.name, model_version=card.version, outputs=outputs
        )

    async def _run(
        self, inputs: list[TextInput], wanted: list[str], *, truncate: bool
    ) -> list[OutputTensor]:
        tensors: dict[str, list[Any]] = {}
        card = self.service.card
        if set(wanted) - {EMBEDDING}:
            logits = await self.service.logits(inputs, truncate=truncate)
            for target, labels in card.targets.items():
                scores = probabilities(logits[target])
                tensors[f"{target}.label"] = [labels[index] for index in scores.argmax(1)]
                tensors[f"{target}.scores"] = scores.ravel().tolist()
        if EMBEDDING in wanted:
            vectors, _ = await self.service.embed(inputs, truncate=truncate)
            tensors[EMBEDDING] = vectors.ravel().tolist()
        offered = _outputs(card)
        return [
            OutputTensor(
                name=name,
                datatype=offered[name].datatype,
                shape=[len(inputs), *offered[name].shape[1:]],
                data=tensors[name],
            )
            for name in wanted
        ]


def _check(card: ModelCard, name: str, version: str | None) -> None:
    card.require_name(name)
    if version not in (None, card.version):
        message = f"That version is not served here; {card.version} is."
        raise ServingError(ErrorType.NOT_FOUND, message)


def _outputs(card: ModelCard) -> dict[str, TensorMetadata]:
    outputs = []
    for target, labels in card.targets.items():
        outputs += [
            TensorMetadata(name=f"{target}.label", datatype="BYTES", shape=[-1]),
            TensorMetadata(name=f"{target}.scores", datatype="FP32", shape=[-1, len(labels)]),
        ]
    if card.embedding_size is not None:
        shape = [-1, card.embedding_size]
        outputs.append(TensorMetadata(name=EMBEDDING, datatype="FP32", shape=shape))
    return {output.name: output for output in outputs}


def _wanted(requested: list[OutputName] | None, card: ModelCard) -> list[str]:
    """Names of the requested output tensors; by default those of the default target."""
    offered = _outputs(card)
    if requested is None:
        target = card.default_target
        return [EMBEDDING] if target is None else [f"{target}.label", f"{target}.scores"]
    names = [output.name for output in requested]
    if not names or set(names) - set(offered):
        message = f"`outputs` must name some of: {', '.join(offered)}."
        raise ServingError(ErrorType.VALIDATION, message)
    return names


def _texts(tensors: list[InputTensor]) -> list[TextInput]:
    columns = {tensor.name: _column(tensor) for tensor in tensors}
    if "text" not in columns or set(columns) - set(_INPUTS) or len(columns) != len(tensors):
        message = "One input tensor `text` is expected, and for pairs `text_pair`."
        raise ServingError(ErrorType.VALIDATION, message)
    nothing: list[str | None] = [None] * len(columns["text"])
    pairs: Sequence[str | None] = columns.get("text_pair") or nothing
    if len(pairs) != len(columns["text"]):
        message = "`text` and `text_pair` have different lengths."
        raise ServingError(ErrorType.VALIDATION, message)
    return [TextInput(text, pair) for text, pair in zip(columns["text"], pairs, strict=True)]


def _column(tensor: InputTensor) -> list[str]:
    data = [tensor.data] if isinstance(tensor.data, str) else tensor.data
    if tensor.shape not in ([len(data)], [len(data), 1]):
        message = f"`shape` does not fit {len(data)} texts; it must be [{len(data)}]."
        raise ServingError(ErrorType.VALIDATION, message)
    return data
