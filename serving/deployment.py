"""The Serve deployment: one replica is one loaded package and its HTTP application.

The application runs inside the replica, so a request makes one hop from the proxy. The model runs
in one worker thread: while it works, the event loop goes on answering health checks and refusing
what must be refused.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from ray import serve

from orchestrator.config import validate_config
from serving.asgi import create_app
from serving.batching import Outputs, Work, padded_tokens, run_batch
from serving.config import Autoscaling, Batching, Limits, ServingConfig
from serving.engine import Engine, load_engine
from serving.guard import Policy
from serving.keys import KeyRing
from serving.metrics import ServeRecorder
from serving.probe import warm_up
from serving.resolve import resolve
from serving.service import Service

DEPLOYMENT: Final = "model"
SURGE_UP_TO_REPLICAS: Final = 2
"""With so few replicas an update starts all new ones before it stops old ones."""
SURGE_ABOVE_PERCENT: Final = 25
SHUTDOWN_MARGIN_S: Final = 5.0
PROBE_TIMEOUT_S: Final = 30.0

logger = logging.getLogger(__name__)


@serve.ingress()
class ModelReplica:
    """Loads a package, answers requests, probes itself.

    Args:
        config: settings with `model` pinned to a version: every replica serves the same bytes.

    Raises:
        InputError: the package is not there or not usable.
        IntegrityError: its files or its answers are not those it was committed with.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = validate_config(ServingConfig, config, "serving config")
        package = resolve(self.config)
        threads = max(1, int(self.config.cpus_per_replica))
        device = "cuda" if self.config.gpus_per_replica > 0 else "cpu"
        self.engine: Engine = load_engine(
            package, target=self.config.target, threads=threads, device=device
        )
        self.recorder = ServeRecorder(self.engine.card.ref)
        self.policy = Policy(self.config.limits)
        self._load_keys()
        # One thread: the model uses its cores itself, and runs never overlap.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._probe = warm_up(self.engine, Path(package.path), self.config.warm_up_requests)
        self.service = Service(self.engine, self.run_work, self.policy)
        self._set_health(ok=True)
        self.service.health.ready = True
        logger.info("ready package=%s backend=%s", self.engine.card.ref, self.engine.card.backend)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application of this replica; Serve calls it after the constructor."""
        return create_app(self.service, self.policy, self.recorder, sets_request_id=False)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def run_work(self, works: Sequence[Work]) -> list[Outputs]:
        """Run the works of several requests together; one result per work."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._run, works)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new limits, batching and key file without a restart; requests go on.

        Raises:
            ConfigError: a value is not allowed.
            InputError: the key file is unusable.
        """
        self.policy.limits = validate_config(Limits, user_config["limits"], "limits")
        batching = validate_config(Batching, user_config["batching"], "batching")
        handler: Any = self.run_work
        handler.set_max_batch_size(batching.max_batch_size)
        handler.set_batch_wait_timeout_s(batching.wait_s)
        self._load_keys()

    async def check_health(self) -> None:
        """Run the probe; Serve replaces a replica that fails three times in a row.

        Raises:
            IntegrityError: the answers are not the expected ones.
            TimeoutError: the model does not answer.
        """
        loop = asyncio.get_running_loop()
        probing = loop.run_in_executor(self._worker, self._probe.check, self.engine)
        try:
            await asyncio.wait_for(probing, PROBE_TIMEOUT_S)
        except Exception:
            self._set_health(ok=False)
            self.recorder.probe_failed()
            raise
        self._set_health(ok=True)

    def _run(self, works: Sequence[Work]) -> list[Outputs]:
        return run_batch(works, self._counted, self.policy.limits.max_batch_tokens)

    def _counted(self, inputs: Sequence[Any], operation: Any) -> Outputs:
        self.recorder.batch(padded_tokens(inputs))
        return self.engine.run(inputs, operation)

    def _load_keys(self) -> None:
        path = self.config.api_keys_file
        self.policy.keys = None if path is None else KeyRing.load(path)

    def _set_health(self, *, ok: bool) -> None:
        self.service.health.probe_ok = ok
        self.recorder.ready(ok)


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
        "autoscaling_config": autoscaling(scale),
        "max_ongoing_requests": scale.max_ongoing_requests,
        # At one replica, as many as may be in flight in all; the proxy refuses the rest with 429.
        "max_queued_requests": max(1, limits.max_concurrent_requests - scale.max_ongoing_requests),
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
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


def autoscaling(scale: Autoscaling) -> dict[str, Any]:
    """Return the settings of Ray Serve's autoscaler."""
    return {
        "min_replicas": scale.min_replicas,
        "initial_replicas": max(1, scale.min_replicas),
        "max_replicas": scale.max_replicas,
        "target_ongoing_requests": scale.target_ongoing_requests,
        "upscale_delay_s": scale.upscale_delay_s,
        "downscale_delay_s": scale.downscale_delay_s,
        "look_back_period_s": scale.look_back_period_s,
    }
