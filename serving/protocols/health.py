"""Health routes for load balancers and Kubernetes; answered without a key."""

from collections.abc import Iterable
from typing import Literal

from serving.guard.errors import ErrorType, ServingError
from serving.protocols.messages import Message
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols


class HealthStatus(Message):
    """State of the replica that answers."""

    status: Literal["ok", "ready", "healthy"]
    """``ok``: the process answers; ``ready``: the model can; ``healthy``: its probe was right."""


@protocols.add
class HealthProtocol(WireProtocol):
    """Liveness, readiness and the result of the last probe."""

    class Config(ProtocolConfig):
        """Health routes."""

        type: Literal["health"] = "health"

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        unhealthy = (ErrorType.UNHEALTHY,)
        alive = "The process answers."
        ready = "The model is loaded and warmed up."
        healthy = "The last inference probe was right."
        return (
            Operation("GET", "/healthz", alive, self.alive, HealthStatus),
            Operation("GET", "/readyz", ready, self.ready, HealthStatus, errors=unhealthy),
            *(
                Operation("GET", path, healthy, self.healthy, HealthStatus, errors=unhealthy)
                for path in ("/", "/ping")
            ),
            Operation("GET", "/health", healthy, self.healthy, HealthStatus, errors=unhealthy),
        )

    async def alive(self) -> HealthStatus:
        """Answer ``GET /healthz``."""
        return HealthStatus(status="ok")

    async def ready(self) -> HealthStatus:
        """Answer ``GET /readyz``.

        Raises:
            ServingError: The model is not loaded yet.
        """
        self.service.health.require_ready()
        return HealthStatus(status="ready")

    async def healthy(self) -> HealthStatus:
        """Answer ``GET /health``.

        Raises:
            ServingError: The model is not loaded yet, or its last probe failed.
        """
        if not (self.service.health.ready and self.service.health.probe_ok):
            raise ServingError(ErrorType.UNHEALTHY, "The model failed its last probe.")
        return HealthStatus(status="healthy")
