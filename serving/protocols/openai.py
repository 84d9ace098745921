"""The OpenAI protocol: ``/v1/embeddings`` and ``/v1/models``, as its client libraries send them."""

import base64
import time
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict

from orchestrator.inference.inputs import Item
from serving.guard.errors import ErrorType, ServingError
from serving.model.service import Service
from serving.protocols.messages import FIRST_ERROR, Message, RequestBody
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols

Encoding = Literal["float", "base64"]


class EmbeddingsRequest(RequestBody):
    """Texts to embed; inputs that are too long are refused, never cut silently."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["Return the sum of the elements."]}]}
    )

    input: str | Annotated[list[str], FIRST_ERROR]
    """One text or a batch of texts."""
    model: str | None = None
    """Package name or ``name/v0001``; null means the served one."""
    encoding_format: Encoding | None = None
    """``base64``: little-endian float32; null means ``float``."""
    dimensions: int | None = None
    """Width of the embeddings; only the package's own is accepted."""
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
        return (
            Operation(
                "POST", "/v1/embeddings", "Embed texts.", self.embeddings, EmbeddingsAnswer,
                EmbeddingsRequest, errors,
            ),
            Operation("GET", "/v1/models", served, self.models, ModelList),
            Operation("GET", "/v1/models/{model}", served, self.model, Model, errors=missing),
        )  # fmt: skip

    async def embeddings(self, body: EmbeddingsRequest) -> EmbeddingsAnswer:
        """Answer ``POST /v1/embeddings``.

        Raises:
            ServingError: The model name, the dimensions or an input is not acceptable.
        """
        card = self.service.card
        card.require_name(body.model)
        if body.dimensions not in (None, card.embedding_size):
            message = f"`dimensions` cannot be changed; it is {card.embedding_size}."
            raise ServingError(ErrorType.VALIDATION, message)
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors, tokens = await self.service.embed([Item(text) for text in texts])
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

    async def model(self, model: str) -> Model:
        """Answer ``GET /v1/models/{model}``.

        Raises:
            ServingError: Another model is served.
        """
        self.service.card.require_name(model)
        return Model(id=self.service.card.name, created=self._created)


def _encoded(vector: np.ndarray, encoding: Encoding) -> list[float] | str:
    if encoding == "float":
        values: list[float] = vector.tolist()
        return values
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
