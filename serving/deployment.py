"""The Serve deployment: scaling, draining and updates are Ray Serve's own.

The HTTP application runs inside the replica, so a request makes one hop from the proxy.
"""

from typing import Any, Final

from fastapi import FastAPI
from ray import serve
from ray.exceptions import TaskCancelledError
from ray.serve.config import AutoscalingConfig

from orchestrator.config import validate_config
from serving.asgi import create_app
from serving.config import Batching, Limits, ServingConfig
from serving.guard.errors import RETRY_AFTER_S
from serving.guard.guard import App, Message, Receive, Scope, Send
from serving.metrics import ServeRecorder
from serving.model.replica import PROBE_TIMEOUT_S, Replica

DEPLOYMENT: Final = "model"
SURGE_UP_TO_REPLICAS: Final = 2
"""With so few replicas an update starts all new ones before it stops old ones."""
SURGE_ABOVE_PERCENT: Final = 25
SHUTDOWN_MARGIN_S: Final = 5.0
REFUSALS_IN_FLIGHT: Final = 256
"""Requests beyond the limit that reach a replica, which refuses them in this project's form."""


class _Disconnects:
    """ASGI middleware: tells the application of a client that went away as ASGI says it.

    Behind the Python proxy Serve raises an error of Ray where the body is read.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            try:
                return await receive()
            except TaskCancelledError:
                return {"type": "http.disconnect"}

        await self.app(scope, received, send)


@serve.ingress()
class ModelReplica:
    """A `Replica` as Ray Serve drives it.

    Args:
        config: A `ServingConfig` as plain data, `model` pinned to a version.

    Raises:
        InputError: The package is not there or not usable.
        IntegrityError: Its files or its answers are not those it was committed with.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        settings = validate_config(ServingConfig, config, "serving config")
        self._replica = Replica(settings, ServeRecorder)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application of this replica; Serve calls it after the constructor."""
        replica = self._replica
        service = replica.service()
        # Serve's proxy adds the request id to every response itself.
        app = create_app(service, replica.policy, replica.recorder, sets_request_id=False)
        app.add_middleware(_Disconnects)  # type: ignore[arg-type]  # as for the guard
        return app

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new limits, batching and key file without a restart.

        Raises:
            ConfigError: A value is not allowed.
            InputError: The key file is unusable.
        """
        batching = validate_config(Batching, user_config["batching"], "batching")
        self._replica.change(validate_config(Limits, user_config["limits"], "limits"), batching)

    async def check_health(self) -> None:
        """Run the probe; Serve replaces a replica that fails three times in a row.

        Raises:
            IntegrityError: The answers are not the expected ones.
            TimeoutError: The model does not answer.
        """
        await self._replica.check()


def deployment(config: ServingConfig) -> Any:
    """Return the Serve application of a config whose `model` names one version."""
    limits, scale = config.limits, config.autoscaling
    few = scale.max_replicas <= SURGE_UP_TO_REPLICAS
    options = {
        "name": DEPLOYMENT,
        "ray_actor_options": {
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
        },
        "autoscaling_config": AutoscalingConfig(
            initial_replicas=max(1, scale.min_replicas),
            **scale.model_dump(),
        ),
        # The replica refuses what is too much; Serve's own limits are behind it. A replica counts a
        # request as queued until its first turn on the event loop, also where slots are free.
        "max_ongoing_requests": limits.max_concurrent_requests + REFUSALS_IN_FLIGHT,
        "max_queued_requests": limits.max_concurrent_requests + REFUSALS_IN_FLIGHT,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        "graceful_shutdown_timeout_s": limits.request_timeout_s + SHUTDOWN_MARGIN_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": config.health_check_period_s,
        "health_check_timeout_s": PROBE_TIMEOUT_S + SHUTDOWN_MARGIN_S,
        "max_surge_percent": 100 if few else SURGE_ABOVE_PERCENT,
        "user_config": {
            "limits": limits.model_dump(),
            "batching": config.batching.model_dump(),
        },
    }
    fixed = config.model_dump(exclude={"limits", "batching", "autoscaling", "revision"})
    return serve.deployment(ModelReplica).options(**options).bind(fixed)
