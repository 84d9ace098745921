"""The Serve deployment: scaling, batching, draining and updates are Ray Serve's own.

The HTTP application runs inside the replica, so a request makes one hop from the proxy.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig

from orchestrator.config import validate_config
from orchestrator.inference.batching import Outputs, Work
from serving.asgi import create_app
from serving.config import Batching, Limits, ServingConfig
from serving.guard.errors import RETRY_AFTER_S
from serving.metrics import ServeRecorder
from serving.model.replica import PROBE_TIMEOUT_S, Replica

DEPLOYMENT: Final = "model"
SURGE_UP_TO_REPLICAS: Final = 2
"""With so few replicas an update starts all new ones before it stops old ones."""
SURGE_ABOVE_PERCENT: Final = 25
SHUTDOWN_MARGIN_S: Final = 5.0
DEFAULT_BATCHING: Final = Batching()


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
        service = replica.service(self.run_work)
        # Serve's proxy adds the request id to every response itself.
        return create_app(service, replica.policy, replica.recorder, sets_request_id=False)

    @serve.batch(
        max_batch_size=DEFAULT_BATCHING.max_batch_size,
        batch_wait_timeout_s=DEFAULT_BATCHING.wait_s,
    )
    async def run_work(self, works: Sequence[Work]) -> list[Outputs]:
        """Run the works of several requests together; called with one, it returns its result."""
        return await self._replica.run(works)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new limits, batching and key file without a restart.

        Raises:
            ConfigError: A value is not allowed.
            InputError: The key file is unusable.
        """
        batching = validate_config(Batching, user_config["batching"], "batching")
        self._replica.change(validate_config(Limits, user_config["limits"], "limits"))
        handler: Any = self.run_work
        handler.set_max_batch_size(batching.max_batch_size)
        handler.set_batch_wait_timeout_s(batching.wait_s)

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
            **scale.model_dump(exclude={"max_ongoing_requests"}),
        ),
        "max_ongoing_requests": scale.max_ongoing_requests,
        # At one replica, as many as may be in flight in all; the proxy refuses the rest with 429.
        "max_queued_requests": max(1, limits.max_concurrent_requests - scale.max_ongoing_requests),
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
