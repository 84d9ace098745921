"""Open Inference Protocol, version 2 (KServe, Triton, Seldon), JSON form.

A text model has one input tensor ``text`` (BYTES, [B]) and, for tasks on pairs, ``text_pair``. Its
outputs are, per target NAME, ``NAME.label`` (BYTES, [B]) and ``NAME.scores`` (FP32, [B, K], classes
in the order of the metadata) of classification, ``NAME.scores`` of multilabel, ``NAME.values``
(FP32, [B, K]) of regression, and ``embedding`` (FP32, [B, D]), the vectors of ``/embed``. Other
answers are no tensors: ``/predict`` gives them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import numpy as np

import orchestrator
from orchestrator.arrays import AnyArray
from orchestrator.inference.inputs import Item
from orchestrator.inference.models import EMBEDDING
from orchestrator.tasks.base import AnyTask
from serving.guard.errors import ErrorType, ServingError
from serving.model.card import ModelCard
from serving.model.service import unit
from serving.protocols.openinference_models import (
    InferAnswer,
    InferParameters,
    InferRequest,
    InputTensor,
    Live,
    ModelMetadata,
    ModelParameters,
    OutputName,
    OutputTensor,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols

_INPUTS: Final = ("text", "text_pair")
_TENSORS: Final = {
    "classification": ("label", "scores"),
    "multilabel": ("scores",),
    "regression": ("values",),
}
"""Kind of task → attributes of its answers that are tensors."""


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
            ServingError: The model is not loaded yet.
        """
        self.service.health.require_ready()
        return Ready()

    async def model_ready(self, model: str, version: str | None = None) -> Ready:
        """Answer ``GET /v2/models/{model}[/versions/{version}]/ready``.

        Raises:
            ServingError: Another model or version is served, or it is not loaded yet.
        """
        _check(self.service.card, model, version)
        return await self.ready()

    async def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """Answer ``GET /v2/models/{model}[/versions/{version}]``.

        Raises:
            ServingError: Another model or version is served.
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
                labels={name: list(task.labels) for name, task in card.tasks.items()}
            ),
        )

    async def infer(
        self, body: InferRequest, model: str, version: str | None = None
    ) -> InferAnswer:
        """Answer ``POST /v2/models/{model}[/versions/{version}]/infer``.

        Raises:
            ServingError: The model, a tensor or an input is not acceptable.
        """
        card = self.service.card
        _check(card, model, version)
        inputs = _texts(body.inputs)
        parameters = body.parameters or InferParameters()
        outputs = await self._run(inputs, _wanted(body.outputs, card), parameters)
        return InferAnswer(
            id=body.id, model_name=card.name, model_version=card.version, outputs=outputs
        )

    async def _run(
        self, items: list[Item], wanted: list[str], parameters: InferParameters
    ) -> list[OutputTensor]:
        card = self.service.card
        targets = dict.fromkeys(name.rpartition(".")[0] for name in wanted if name != EMBEDDING)
        vectors = [card.embedding()] if EMBEDDING in wanted else []
        found = await self.service.infer(
            items,
            [*targets, *vectors],
            truncate=parameters.truncate,
            prompt=parameters.prompt_name,
        )
        tensors: dict[str, list[Any]] = {}
        for name in targets:
            tensors |= _tensors(card.tasks[name], found[name])
        for name in vectors:
            values = np.stack(found[name])
            plain = card.stated is not None and name == EMBEDDING
            tensors[EMBEDDING] = (values if plain else unit(values)).ravel().tolist()
        offered = _outputs(card)
        return [
            OutputTensor(
                name=name,
                datatype=offered[name].datatype,
                shape=[len(items), *offered[name].shape[1:]],
                data=tensors[name],
            )
            for name in wanted
        ]


def _check(card: ModelCard, name: str, version: str | None) -> None:
    card.require_name(name)
    if version not in (None, card.version):
        message = f"That version is not served here; {card.version} is."
        raise ServingError(ErrorType.NOT_FOUND, message)


def _tensors(task: AnyTask, outputs: Sequence[AnyArray]) -> dict[str, list[Any]]:
    """Return the answers of a target as flat tensors, by their names."""
    answers = task.answers(outputs)
    columns = {
        name: [getattr(answer, name) for answer in answers] for name in _TENSORS[task.kind()]
    }
    return {
        f"{task.head}.{name}": values if name == "label" else [x for row in values for x in row]
        for name, values in columns.items()
    }


def _outputs(card: ModelCard) -> dict[str, TensorMetadata]:
    outputs = []
    for target, task in card.tasks.items():
        for name in _TENSORS.get(task.kind(), ()):
            width = len(task.labels) or task.config.num_values
            outputs.append(
                TensorMetadata(name=f"{target}.{name}", datatype="BYTES", shape=[-1])
                if name == "label"
                else TensorMetadata(name=f"{target}.{name}", datatype="FP32", shape=[-1, width])
            )
    shape = [-1, card.embedding_size]
    outputs.append(TensorMetadata(name=EMBEDDING, datatype="FP32", shape=shape))
    return {output.name: output for output in outputs}


def _wanted(requested: list[OutputName] | None, card: ModelCard) -> list[str]:
    """Names of the requested output tensors; by default those of the default target."""
    offered = _outputs(card)
    if requested is None:
        return _default_outputs(card)
    names = [output.name for output in requested]
    if not names or set(names) - set(offered):
        message = f"`outputs` must name some of: {', '.join(offered)}."
        raise ServingError(ErrorType.VALIDATION, message)
    return names


def _default_outputs(card: ModelCard) -> list[str]:
    """Return the tensors of the default target; of a package without targets, the embedding."""
    if not card.tasks or card.embedding() != EMBEDDING:
        return [EMBEDDING]
    task = card.task(None)
    if task.kind() not in _TENSORS:
        message = (
            f"'{task.head}' answers {task.kind()}, which is not a tensor; /predict answers it."
        )
        raise ServingError(ErrorType.UNSUPPORTED, message)
    return [f"{task.head}.{name}" for name in _TENSORS[task.kind()]]


def _texts(tensors: list[InputTensor]) -> list[Item]:
    columns = {tensor.name: _column(tensor) for tensor in tensors}
    if "text" not in columns or set(columns) - set(_INPUTS) or len(columns) != len(tensors):
        message = "One input tensor `text` is expected, and for pairs `text_pair`."
        raise ServingError(ErrorType.VALIDATION, message)
    nothing: list[str | None] = [None] * len(columns["text"])
    pairs: Sequence[str | None] = columns.get("text_pair") or nothing
    if len(pairs) != len(columns["text"]):
        message = "`text` and `text_pair` have different lengths."
        raise ServingError(ErrorType.VALIDATION, message)
    return [Item(text, pair) for text, pair in zip(columns["text"], pairs, strict=True)]


def _column(tensor: InputTensor) -> list[str]:
    data = [tensor.data] if isinstance(tensor.data, str) else tensor.data
    if tensor.shape not in ([len(data)], [len(data), 1]):
        message = f"`shape` does not fit {len(data)} texts; it must be [{len(data)}]."
        raise ServingError(ErrorType.VALIDATION, message)
    return data
