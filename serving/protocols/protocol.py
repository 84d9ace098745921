"""The contract of a wire format: operations, and the models of their bodies and answers.

A protocol is one file: models, handlers, and a class that is registered with `protocols` under the
`type` of its nested ``Config``. Every registered protocol is served. Another package adds one
through the entry point ``protocol.<type>`` of the group ``orchestrator.components``.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.registry import EntryConfig, Registry
from serving.guard.errors import ErrorType
from serving.model.service import Service
from serving.protocols.messages import RequestBody


class ProtocolConfig(EntryConfig):
    """Name of a protocol; protocols have no options."""


protocols: Registry[ProtocolConfig] = Registry("protocol", ProtocolConfig, "serving.protocols")
"""All wire formats by name."""


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
        body: Model of the request body; only for POST.
        errors: What the handler refuses, apart from errors that the guard and the validation of
            the body raise for every operation.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    handler: Callable[..., Awaitable[Any]]
    answer: Any
    body: type[RequestBody] | None = None
    errors: tuple[ErrorType, ...] = ()


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
