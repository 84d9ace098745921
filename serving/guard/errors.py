"""Errors as clients see them: one list of types, one table of status codes, two bodies.

The body of an error is ``{"error": text, "error_type": name, "request_id": id}``, as Text
Embeddings Inference and the Open Inference Protocol have it. Below ``/v1``, ``error`` is an object
with ``message``, ``type``, ``param`` and ``code``, as OpenAI's clients read it. A message never
repeats input bytes, file names or stack traces; those are in the log under the same id. Names and
status codes follow Text Embeddings Inference where it has them: empty 400, tokenizer 422, too many
inputs and too long ones 413, overloaded 429, unhealthy 503.
"""

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict


class ErrorType(StrEnum):
    """Every kind of problem with a request."""

    MALFORMED = "malformed"
    EMPTY = "empty"
    UNSUPPORTED = "unsupported"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TIMEOUT = "body_timeout"
    TOO_LARGE = "too_large"
    TOO_MANY_INPUTS = "too_many_inputs"
    TOO_LONG = "too_long"
    MEDIA_TYPE = "media_type"
    VALIDATION = "validation"
    TOKENIZER = "tokenizer"
    HEADERS_TOO_LARGE = "headers_too_large"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"
    UNHEALTHY = "unhealthy"
    TIMEOUT = "timeout"


STATUS: Final[dict[ErrorType, int]] = {
    ErrorType.MALFORMED: 400,
    ErrorType.EMPTY: 400,
    ErrorType.UNSUPPORTED: 400,
    ErrorType.UNAUTHORIZED: 401,
    ErrorType.FORBIDDEN: 403,
    ErrorType.NOT_FOUND: 404,
    ErrorType.METHOD_NOT_ALLOWED: 405,
    ErrorType.BODY_TIMEOUT: 408,
    ErrorType.TOO_LARGE: 413,
    ErrorType.TOO_MANY_INPUTS: 413,
    ErrorType.TOO_LONG: 413,
    ErrorType.MEDIA_TYPE: 415,
    ErrorType.VALIDATION: 422,
    ErrorType.TOKENIZER: 422,
    ErrorType.HEADERS_TOO_LARGE: 431,
    ErrorType.OVERLOADED: 429,
    ErrorType.INTERNAL: 500,
    ErrorType.UNHEALTHY: 503,
    ErrorType.TIMEOUT: 504,
}

RETRY_AFTER_S: Final = 1
"""Seconds a client is asked to wait after 429 and 503."""


class ErrorBody(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    error: str
    """The problem, what is allowed, what to do."""
    error_type: ErrorType
    """The kind of problem, for programs."""
    request_id: str
    """The same as ``X-Request-ID``; the log names it."""


class OpenAIProblem(BaseModel):
    """An error as OpenAI's clients know it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    message: str
    """The problem, what is allowed, what to do."""
    type: str
    """``invalid_request_error`` or ``server_error``."""
    param: str | None = None
    """Always null: the message names the field."""
    code: ErrorType
    """The kind of problem, for programs."""


class OpenAIErrorBody(BaseModel):
    """The body of every error below ``/v1``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    error: OpenAIProblem
    """The problem."""
    request_id: str
    """The same as ``X-Request-ID``; the log names it."""


OPENAI_PREFIX: Final = "/v1/"
"""Routes whose errors have the other body."""


def error_model(path: str) -> type[BaseModel]:
    """Return the model of the errors of a route."""
    return OpenAIErrorBody if path.startswith(OPENAI_PREFIX) else ErrorBody


class ServingError(Exception):
    """A refused request, with the reason that its sender is told."""

    def __init__(self, error_type: ErrorType, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message

    @property
    def status(self) -> int:
        """HTTP status code."""
        return STATUS[self.error_type]

    def headers(self) -> dict[str, str]:
        """Headers that the status code calls for."""
        if self.error_type in (ErrorType.OVERLOADED, ErrorType.UNHEALTHY):
            return {"retry-after": str(RETRY_AFTER_S)}
        if self.error_type is ErrorType.UNAUTHORIZED:
            return {"www-authenticate": "Bearer"}
        if self.error_type in (ErrorType.TOO_LARGE, ErrorType.BODY_TIMEOUT):
            # The rest of the body is still on its way: nothing else can use this connection.
            return {"connection": "close"}
        return {}

    def body(self, request_id: str, path: str = "") -> BaseModel:
        """JSON body of the response, in the form of a route."""
        if not path.startswith(OPENAI_PREFIX):
            return ErrorBody(error=self.message, error_type=self.error_type, request_id=request_id)
        kind = (
            "server_error" if self.status >= STATUS[ErrorType.INTERNAL] else "invalid_request_error"
        )
        problem = OpenAIProblem(message=self.message, type=kind, code=self.error_type)
        return OpenAIErrorBody(error=problem, request_id=request_id)
