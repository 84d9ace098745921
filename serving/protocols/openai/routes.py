"""The OpenAI protocol: ``/v1/embeddings`` and ``/v1/models``, as its client libraries send them."""

import time
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from orchestrator.arrays import Float32Array
from serving.guard.errors import ErrorType
from serving.model.service import Service
from serving.protocols.answers import base64_of
from serving.protocols.messages import Message, RequestBody
from serving.protocols.native.bodies import Inputs
from serving.protocols.native.inputs import text_items
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols

Encoding = Literal["float", "base64"]


class EmbeddingsRequest(RequestBody):
    """Texts to embed; what is too long is refused, unless the service has ``auto_truncate``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["Return the sum of the elements."]}]}
    )

    input: Inputs
    """One text or a batch of texts; each may be the token ids of ``/tokenize``."""
    model: str | None = None
    """Package name or ``name/v0001``; null means the served one."""
    encoding_format: Encoding | None = None
    """``base64``: little-endian float32; null means ``float``."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep this many leading dimensions, before scaling; null: all."""
    user: str | None = None
    """Accepted and not used."""


class Embedding(Message):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    """Kind of this object."""
    index: int
    """Place of the text in the request."""
    embedding: list[float] | str
    """The vector, or its base64 text."""


class Usage(Message):
    """Tokens of a request."""

    prompt_tokens: int
    """Tokens of all texts, special tokens included."""
    total_tokens: int
    """The same number."""


class EmbeddingsAnswer(Message):
    """Vectors in the order of the texts."""

    object: Literal["list"] = "list"
    """Kind of this object."""
    data: list[Embedding]
    """One per text."""
    model: str
    """Package name."""
    usage: Usage
    """Tokens of the request."""


class Model(Message):
    """The served package."""

    id: str
    """Package name."""
    object: Literal["model"] = "model"
    """Kind of this object."""
    created: int
    """Start of the replica, seconds since 1970."""
    owned_by: Literal["orchestrator"] = "orchestrator"
    """Always ``orchestrator``."""


class ModelList(Message):
    """All served packages: one."""

    object: Literal["list"] = "list"
    """Kind of this object."""
    data: list[Model]
    """The served package."""


@protocols.add
class OpenAIProtocol(WireProtocol):
    """Embeddings and models."""

    class Config(ProtocolConfig):
        """The embedding routes of OpenAI."""

        type: Literal["openai"] = "openai"

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._created = int(time.time())

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        served, missing = "The served model.", (ErrorType.NOT_FOUND,)
        errors = (ErrorType.UNSUPPORTED, ErrorType.NOT_FOUND, ErrorType.TOKENIZER)
        for path in ("/v1/embeddings", "/embeddings"):
            yield Operation(
                "POST", path, "Embed texts.", self.embeddings, EmbeddingsAnswer,
                EmbeddingsRequest, errors, "embed",
            )  # fmt: skip
        yield Operation("GET", "/v1/models", served, self.models, ModelList)
        for path in ("/v1/models/{model}", "/v1/models/{model}/{version}"):
            yield Operation("GET", path, served, self.model, Model, errors=missing)

    async def embeddings(self, body: EmbeddingsRequest) -> EmbeddingsAnswer:
        """Answer ``POST /v1/embeddings``.

        Raises:
            ServingError: The model name, the dimensions or an input is not acceptable.
        """
        card = self.service.card
        card.require_name(body.model)
        vectors, tokens = await self.service.embed(
            text_items(body.input),
            truncate=self.service.truncates(None),
            dimensions=body.dimensions,
        )
        encoding = body.encoding_format or "float"
        return EmbeddingsAnswer(
            data=[
                Embedding(index=index, embedding=_encoded(vector, encoding))
                for index, vector in enumerate(vectors)
            ],
            model=card.name,
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        )

    async def models(self) -> ModelList:
        """Answer ``GET /v1/models``."""
        return ModelList(data=[await self.model(self.service.card.name)])

    async def model(self, model: str, version: str | None = None) -> Model:
        """Answer ``GET /v1/models/{model}[/{version}]``.

        Raises:
            ServingError: Another model is served.
        """
        self.service.card.require_name(model if version is None else f"{model}/{version}")
        return Model(id=self.service.card.name, created=self._created)


def _encoded(vector: Float32Array, encoding: Encoding) -> list[float] | str:
    if encoding == "base64":
        return base64_of(vector)
    values: list[float] = vector.tolist()
    return values
