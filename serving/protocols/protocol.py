"""The contract of a wire format: operations, and the models of their bodies and answers.

A protocol is one file: models, handlers, and a class that is registered with `protocols` under the
`type` of its nested ``Config``. Every registered protocol is served. Another package adds one
through the entry point ``protocol.<type>`` of the group ``orchestrator.components``.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from orchestrator.config.registry import EntryConfig, Registry
from serving.guard.errors import ErrorType
from serving.guard.keys import Scope
from serving.model.service import Service
from serving.protocols.messages import RequestBody


class ProtocolConfig(EntryConfig):
    """Name of a protocol; protocols have no options."""


protocols: Registry[ProtocolConfig] = Registry("protocol", ProtocolConfig, "serving.protocols")
"""All wire formats by name."""


JSON: Final = "application/json"
NO_TYPE: Final = ""
"""The media type of a body that came without one."""


@dataclass(frozen=True, slots=True)
class Received:
    """A body as it came.

    Attributes:
        content: All of it.
        content_type: The header ``Content-Type``; empty if there was none.
        headers: All headers, names in lower case.
        max_depth: Deepest nesting of JSON that is allowed.
    """

    content: bytes
    content_type: str
    headers: Mapping[str, str]
    max_depth: int

    @property
    def media_type(self) -> str:
        """Media type without its parameters, in lower case."""
        return self.content_type.partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Operation:
    """One route.

    Attributes:
        method: HTTP method.
        path: Template; ``{name}`` is handed to the handler as the keyword argument ``name``.
        summary: One sentence for ``/docs``.
        handler: Called with the validated body, if the operation has one, and the parts of the
            path; returns a value of type ``answer`` or raises `ServingError`.
        answer: Type of the answer, anything pydantic can serialize.
        body: Model of the request body, or several where ``parse`` chooses; only for POST.
        errors: What the handler refuses, apart from errors that the guard and the validation of
            the body raise for every operation.
        scope: What a key must be allowed.
        media: Media types of the body that are read, ``image/*`` for all of a kind; `NO_TYPE`
            where the protocol's clients send none.
        parse: Reads a body that is not JSON alone; None: JSON.
        also: Media type of other answers → their schema.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    handler: Callable[..., Awaitable[Any]]
    answer: Any
    body: type[RequestBody] | tuple[type[RequestBody], ...] | None = None
    errors: tuple[ErrorType, ...] = ()
    scope: Scope = "read"
    media: tuple[str, ...] = (JSON,)
    parse: Callable[[Received], RequestBody] | None = None
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def bodies(self) -> tuple[type[RequestBody], ...]:
        """The models of its body."""
        if self.body is None:
            return ()
        return self.body if isinstance(self.body, tuple) else (self.body,)


class WireProtocol(ABC):
    """Base of all protocols; a subclass nests a ``Config`` derived from `ProtocolConfig`.

    Args:
        service: What answers; a protocol only translates.
    """

    Config: type[ProtocolConfig]

    def __init__(self, service: Service) -> None:
        self.service = service

    @abstractmethod
    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
