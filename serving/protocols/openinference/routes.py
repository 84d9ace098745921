"""Open Inference Protocol, version 2 (KServe, Triton, Seldon), with binary tensors.

Inputs of a text model: ``text`` (BYTES, [B]); for pairs, and for the context of a question,
``text_pair``; for the candidates of a question ``choices`` (BYTES, [B, C]); or, in place of
``text``, ``input_ids`` (integers, [B, S] or [S]) with an optional ``attention_mask`` of the same
shape. A model of images or sounds has one input, ``image`` or ``audio``. The outputs of each target
are those of its kind (`OUTPUTS`), and ``embedding`` (FP32, [B, D]) are the vectors of ``/embed``.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from starlette.responses import Response

import orchestrator
from orchestrator.arrays import AnyArray
from orchestrator.inference.inputs import Item
from orchestrator.inference.models import EMBEDDING
from serving.guard.errors import ErrorType, ServingError
from serving.model.card import SIMILARITY, ModelCard
from serving.model.service import unit
from serving.model.whole import answer_files
from serving.protocols.openinference.bodies import (
    IndexEntry,
    InferAnswer,
    InferParameters,
    InferRequest,
    InputParameters,
    Live,
    ModelConfiguration,
    ModelMetadata,
    ModelParameters,
    OutputName,
    OutputTensor,
    Port,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from serving.protocols.openinference.inputs import files_of, items_of
from serving.protocols.openinference.outputs import columns, offered, runs_with_others
from serving.protocols.openinference.tensors import (
    BINARY,
    BYTES,
    HEADER_LENGTH,
    arrays,
    joined,
    parse,
    to_bytes,
)
from serving.protocols.protocol import (
    JSON,
    NO_TYPE,
    Operation,
    ProtocolConfig,
    WireProtocol,
    protocols,
)

TRITON_STRING = "TYPE_STRING"


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
        yield Operation(
            "POST", "/v2/repository/index", "The served versions.", self.index, list[IndexEntry]
        )
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            yield Operation(
                "GET", base, "Model metadata.", self.metadata, ModelMetadata, errors=(missing,)
            )
            yield Operation(
                "GET", f"{base}/config", "Model configuration, as Triton has it.",
                self.configuration, ModelConfiguration, errors=(missing,),
            )  # fmt: skip
            yield Operation(
                "GET", f"{base}/ready", can, self.model_ready, Ready, errors=(missing, unhealthy)
            )
            yield Operation(
                "POST", f"{base}/infer", "Run the model.", self.infer, InferAnswer,
                InferRequest, (missing, ErrorType.UNSUPPORTED, ErrorType.TOKENIZER),
                "predict", (JSON, NO_TYPE, BINARY), parse,
                {BINARY: {"type": "string", "format": "binary"}},
            )  # fmt: skip

    async def server(self) -> ServerMetadata:
        """Answer ``GET /v2``."""
        return ServerMetadata(
            name="ray-model-orchestrator",
            version=orchestrator.__version__,
            extensions=["binary_tensor_data", "model_configuration"],
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

    async def index(self) -> list[IndexEntry]:
        """Answer ``POST /v2/repository/index``."""
        card, ready = self.service.card, self.service.health.ready
        reason = "" if ready else "loading"
        state: Literal["READY", "UNAVAILABLE"] = "READY" if ready else "UNAVAILABLE"
        return [IndexEntry(name=card.name, version=card.version, state=state, reason=reason)]

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
            inputs=[TensorMetadata(name=card.reads, datatype=BYTES, shape=[-1])],
            outputs=list(offered(card).values()),
            parameters=ModelParameters(
                labels={name: list(task.labels) for name, task in card.tasks.items()}
            ),
        )

    async def configuration(self, model: str, version: str | None = None) -> ModelConfiguration:
        """Answer ``GET /v2/models/{model}[/versions/{version}]/config``.

        Raises:
            ServingError: Another model or version is served.
        """
        stated = await self.metadata(model, version)
        return ModelConfiguration(
            name=stated.name,
            platform=stated.platform,
            max_batch_size=self.service.policy.limits.max_client_batch_size,
            input=[_port(tensor) for tensor in stated.inputs],
            output=[_port(tensor) for tensor in stated.outputs],
        )

    async def infer(
        self, body: InferRequest, model: str, version: str | None = None
    ) -> InferAnswer | Response:
        """Answer ``POST /v2/models/{model}[/versions/{version}]/infer``.

        Raises:
            ServingError: The model, a tensor or an input is not acceptable.
        """
        card = self.service.card
        _check(card, model, version)
        parameters = body.parameters or InferParameters()
        wanted, tensors = _wanted(body.outputs, card), arrays(body)
        if card.reads == "text":
            found = await self._run(items_of(tensors), list(wanted), parameters)
        else:
            found = await self._run_files(tensors, list(wanted))
        return self._answer(body, wanted, found, binary=parameters.binary_data_output)

    def _answer(
        self,
        body: InferRequest,
        wanted: dict[str, Any],
        found: dict[str, AnyArray],
        *,
        binary: bool,
    ) -> InferAnswer | Response:
        """Return output tensors in JSON, or those that are asked for so in binary form."""
        card = self.service.card
        types = offered(card)
        tensors, raws = [], []
        for name, options in wanted.items():
            stated = None if options is None else options.binary_data
            as_bytes = binary if stated is None else stated
            values = found[name]
            raw = to_bytes(values) if as_bytes else None
            tensors.append(
                OutputTensor(
                    name=name,
                    datatype=types[name].datatype,
                    shape=list(values.shape),
                    data=values.ravel().tolist() if raw is None else None,
                    parameters=None if raw is None else InputParameters(binary_data_size=len(raw)),
                )
            )
            raws += [] if raw is None else [raw]
        answer = InferAnswer(
            id=body.id, model_name=card.name, model_version=card.version, outputs=tensors
        )
        if not raws:
            return answer
        content, length = joined(answer.model_dump(mode="json"), raws)
        return Response(content, media_type=BINARY, headers={HEADER_LENGTH: str(length)})

    async def _run_files(
        self, tensors: dict[str, AnyArray], wanted: list[str]
    ) -> dict[str, AnyArray]:
        """Return the wanted tensors of images or recordings by name."""
        card = self.service.card
        contents = files_of(tensors, card.reads, self.service.engine.sound_rate)
        found: dict[str, AnyArray] = {}
        for target in dict.fromkeys(name.rpartition(".")[0] for name in wanted):
            answers = await answer_files(self.service, contents, target)
            found |= columns(card.tasks[target], answers)
        return found

    async def _run(
        self, items: list[Item], wanted: list[str], parameters: InferParameters
    ) -> dict[str, AnyArray]:
        """Return the wanted tensors by name; targets that read their inputs plainly share a run."""
        card, service = self.service.card, self.service
        truncate = service.truncates(parameters.truncate)
        targets = dict.fromkeys(name.rpartition(".")[0] for name in wanted if name != EMBEDDING)
        together = [name for name in targets if runs_with_others(card.tasks[name], items)]
        vectors = [card.embedding()] if EMBEDDING in wanted else []
        tensors: dict[str, AnyArray] = {}
        if together or vectors:
            found = await service.infer(
                items, [*together, *vectors], truncate=truncate, prompt=parameters.prompt_name
            )
            for name in together:
                tensors |= columns(card.tasks[name], card.tasks[name].answers(found[name]))
            for name in vectors:
                values = np.stack(found[name])
                plain = card.stated is not None and name == EMBEDDING
                tensors[EMBEDDING] = values if plain else unit(values)
        for name in targets:
            task = card.tasks[name]
            if name in together:
                continue
            if task.kind() == SIMILARITY:
                rows, _ = await service.embed(items, truncate=truncate, target=name)
                tensors[f"{name}.vector"] = rows
            else:
                answers = await service.predict(items, truncate=truncate, target=name)
                tensors |= columns(task, answers)
        return tensors


def _check(card: ModelCard, name: str, version: str | None) -> None:
    card.require_name(name)
    if version not in (None, card.version):
        message = f"That version is not served here; {card.version} is."
        raise ServingError(ErrorType.NOT_FOUND, message)


def _port(tensor: TensorMetadata) -> Port:
    kind = TRITON_STRING if tensor.datatype == BYTES else f"TYPE_{tensor.datatype}"
    return Port(name=tensor.name, data_type=kind, dims=tensor.shape[1:] or [1])


def _wanted(requested: list[OutputName] | None, card: ModelCard) -> dict[str, Any]:
    """Requested output tensors with their options; by default those of the default target."""
    names = offered(card)
    if requested is None:
        if card.reads == "text" and (not card.tasks or card.embedding() != EMBEDDING):
            return {EMBEDDING: None}
        head = card.task(None).head
        return {name: None for name in names if name.rpartition(".")[0] == head}
    wanted = {output.name: output.parameters for output in requested}
    if not wanted or set(wanted) - set(names) or len(wanted) != len(requested):
        message = f"`outputs` must name some of: {', '.join(names)}; each once."
        raise ServingError(ErrorType.VALIDATION, message)
    return wanted
