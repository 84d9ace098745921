"""The OpenAI protocol: ``/v1/embeddings`` and ``/v1/models``, as its client libraries send them."""

import base64
from typing import Any

import numpy as np

from serving.card import ModelCard
from serving.engine import TextInput
from serving.errors import ErrorType, ServingError
from serving.protocols import fields
from serving.service import Service

_KNOWN = ("input", "model", "encoding_format", "dimensions", "user")


async def embeddings(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Answer ``POST /v1/embeddings``; inputs that are too long are refused, never cut silently.

    Raises:
        ServingError: the body, the model name or an input is not acceptable.
    """
    fields.only(body, _KNOWN)
    check_model(service.card, fields.text(body, "model"))
    _check_dimensions(body.get("dimensions"), service.card)
    encoding = fields.text(body, "encoding_format") or "float"
    if encoding not in ("float", "base64"):
        message = "`encoding_format` must be float or base64."
        raise ServingError(ErrorType.VALIDATION, message)
    texts = fields.strings(fields.required(body, "input"), "input")
    vectors, tokens = await service.embed([TextInput(text) for text in texts])
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
            for index, vector in enumerate(vectors)
        ],
        "model": service.card.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def models(card: ModelCard, created: int) -> dict[str, Any]:
    """Answer ``GET /v1/models``; ``created`` in seconds since 1970."""
    return {"object": "list", "data": [model(card, card.name, created)]}


def model(card: ModelCard, name: str, created: int) -> dict[str, Any]:
    """Answer ``GET /v1/models/{model}``.

    Raises:
        ServingError: another model is served.
    """
    check_model(card, name)
    return {"id": card.name, "object": "model", "created": created, "owned_by": "orchestrator"}


def check_model(card: ModelCard, name: str | None) -> None:
    """Accept the served package by name or pinned reference; no name means the served one.

    Raises:
        ServingError: another name.
    """
    if name not in (None, card.name, card.ref):
        message = f"That model is not served here; {card.name} is."
        raise ServingError(ErrorType.NOT_FOUND, message)


def _check_dimensions(value: Any, card: ModelCard) -> None:
    if value not in (None, card.embedding_size):
        message = f"`dimensions` cannot be changed; it is {card.embedding_size}."
        raise ServingError(ErrorType.VALIDATION, message)


def _encoded(vector: np.ndarray, encoding: str) -> list[float] | str:
    if encoding == "float":
        return [float(value) for value in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
