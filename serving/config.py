"""Settings of a served model.

`ServingConfig` is the typed argument of `serving.app:build`: `serve run serving.app:build
model=news zoo=zoo limits.max_client_batch_size=8`, the `args` of an application in a Serve config
file, and `orchestrator serve` all end here. Imports neither ray nor torch.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import Field, model_validator

from orchestrator.config import StrictModel
from orchestrator.errors import Problem


class Limits(StrictModel):
    """Limits of one replica; names and defaults are those of Text Embeddings Inference."""

    max_concurrent_requests: int = Field(512, ge=1)
    """Requests in flight and queued in a replica; more are answered 429."""
    max_queue_s: float = Field(1.0, gt=0)
    """Longest time that a request may have to wait for the model, by the speed of recent runs; one
    that would wait longer is answered 429 at once."""
    max_batch_tokens: int = Field(16384, ge=1)
    """Tokens, padding included, that the model sees at once."""
    auto_truncate: bool = False
    """Cut texts that are too long where a request does not say; false refuses them."""
    max_client_batch_size: int = Field(32, ge=1)
    """Inputs one request may carry."""
    max_body_bytes: int = Field(2_000_000, ge=1)
    """Largest request body."""
    max_answer_bytes: int = Field(32_000_000, ge=1000)
    """Largest JSON answer; a request that asks for more is refused."""
    max_header_bytes: int = Field(16_384, ge=1024)
    """Largest headers of a request, names and values together."""
    max_json_depth: int = Field(32, ge=2)
    """Deepest nesting of a request body."""
    request_timeout_s: float = Field(30.0, gt=0)
    """Limit from the complete body to the complete answer."""
    body_timeout_s: float = Field(10.0, gt=0)
    """Limit from the headers to the complete body."""


class Batching(StrictModel):
    """Batching of requests of several clients into one run of the model."""

    max_batch_size: int = Field(32, ge=1)
    """Requests in one batch: what came while the model worked. An idle model waits for none."""


class Autoscaling(StrictModel):
    """Number of replicas; passed to Ray Serve's autoscaler."""

    min_replicas: int = Field(1, ge=0)
    """Fewest replicas; 0 lets an idle service disappear and pay a cold start."""
    max_replicas: int = Field(2, ge=1)
    """Most replicas."""
    target_ongoing_requests: float = Field(8.0, gt=0)
    """Requests in flight per replica that the autoscaler aims at."""
    upscale_delay_s: float = Field(5.0, ge=0)
    """Seconds that the load must be high before a replica is added."""
    downscale_delay_s: float = Field(60.0, ge=0)
    """Seconds that the load must be low before a replica is removed."""
    look_back_period_s: float = Field(15.0, gt=10)
    """Window the load is averaged over; Ray Serve reports the load every 10 s."""

    def problems(self) -> Iterable[Problem]:
        """Return bounds that contradict each other."""
        if self.min_replicas > self.max_replicas:
            yield Problem(
                "min_replicas",
                f"{self.min_replicas} is more than max_replicas ({self.max_replicas}).",
            )


class ServingConfig(StrictModel):
    """Package that is served, and settings of the server."""

    model: str = Field(min_length=1)
    """Package: ``name``, ``name@alias`` or ``name/v0001``."""
    zoo: str = Field("zoo", min_length=1)
    """Zoo that holds the package: a path, s3://, gs://."""
    target: str | None = None
    """Target answered by default; null takes the one that the package was made for."""
    limits: Limits = Limits()
    """Limits of a replica."""
    batching: Batching = Batching()
    """Batching of requests."""
    autoscaling: Autoscaling = Autoscaling()
    """Number of replicas."""
    cpus_per_replica: float = Field(1.0, gt=0)
    """CPU cores reserved for each replica, and the number of threads its model uses."""
    gpus_per_replica: float = Field(0.0, ge=0)
    """GPUs reserved for each replica."""
    api_keys_file: str | None = None
    """File of hashed API keys; null asks for none, which is right on the loopback address only."""
    warm_up_requests: int = Field(3, ge=1)
    """Runs of the model before a replica reports itself ready."""
    health_check_period_s: float = Field(10.0, gt=0)
    """Time between two health probes of a replica."""
    revision: str | None = None
    """Any text; changed, `serve deploy` of an otherwise equal file resolves the alias again."""

    @model_validator(mode="before")
    @classmethod
    def _read_flat_text(cls, data: Any) -> Any:
        """Accept the flat texts of ``serve run``: ``limits.max_body_bytes=1000`` and ``x=0.5``."""
        if not isinstance(data, dict):
            return data
        nested: dict[str, Any] = {}
        for key, value in data.items():
            section, dot, name = str(key).partition(".")
            if dot:
                nested[section] = {**_mapping(nested.get(section), key), name: _read(value)}
            else:
                text = section in _TEXTS and value != "null"
                nested[section] = value if text else _read(value)
        return nested

    def problems(self) -> Iterable[Problem]:
        """Return limits that contradict each other."""
        target, most = self.autoscaling.target_ongoing_requests, self.limits.max_concurrent_requests
        if target > most:
            yield Problem(
                "autoscaling.target_ongoing_requests",
                f"{target:g} is more than limits.max_concurrent_requests ({most}): no replica "
                "would ever be added.",
            )


_TEXTS = frozenset({"model", "zoo", "target", "api_keys_file", "revision"})


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise ValueError(f"{key!r} sets a part of {key.partition('.')[0]!r}, which is not a section.")


def _read(value: Any) -> Any:
    import yaml

    return yaml.safe_load(value) if isinstance(value, str) else value
