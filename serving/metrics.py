"""Metrics of the service and their names.

Ray adds the prefix ``ray_``; Serve adds the labels ``application``, ``deployment`` and ``replica``.
Label values are few and never chosen by clients: a route template, a package reference, a code.
"""

from typing import Final, Protocol

REQUEST_SECONDS: Final = "orch_serve_request_seconds"
REJECTED_TOTAL: Final = "orch_serve_rejected_total"
READY: Final = "orch_serve_ready"
PROBE_FAILURES_TOTAL: Final = "orch_serve_probe_failures_total"
BATCH_TOKENS: Final = "orch_serve_batch_tokens"

SECONDS_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
TOKEN_BUCKETS: Final = (16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)

EXPORTED: Final = frozenset(
    f"ray_{name}"
    for name in (
        *(f"{REQUEST_SECONDS}_{part}" for part in ("bucket", "sum", "count")),
        *(f"{BATCH_TOKENS}_{part}" for part in ("bucket", "sum", "count")),
        REJECTED_TOTAL,
        READY,
        PROBE_FAILURES_TOTAL,
    )
)
"""Names as Prometheus sees them: what dashboards and rules may use."""


class Recorder(Protocol):
    """Sink for the events of the guard and the service."""

    def observe(self, route: str, code: int, seconds: float) -> None:
        """Count one finished request; ``code`` 499: the client went away first."""

    def rejected(self, reason: str) -> None:
        """Count one refused request."""

    def batch(self, tokens: int) -> None:
        """Count one run of the model over ``tokens`` tokens, padding included."""

    def ready(self, is_ready: bool) -> None:
        """Say whether the replica can answer."""

    def probe_failed(self) -> None:
        """Count one failed health probe."""


class ServeRecorder:
    """Measures through ``ray.serve.metrics``; make it inside a replica.

    Args:
        model: Reference of the served package, the label ``model``.
    """

    def __init__(self, model: str) -> None:
        from ray.serve import metrics

        self._seconds = metrics.Histogram(
            REQUEST_SECONDS,
            description="Time from headers to the end of the response.",
            boundaries=list(SECONDS_BUCKETS),
            tag_keys=("route", "model", "code"),
        )
        self._tokens = metrics.Histogram(
            BATCH_TOKENS,
            description="Tokens, padding included, of one run of the model.",
            boundaries=list(TOKEN_BUCKETS),
            tag_keys=("model",),
        )
        self._rejected = metrics.Counter(
            REJECTED_TOTAL, description="Refused requests.", tag_keys=("reason", "model")
        )
        self._ready = metrics.Gauge(READY, description="1: can answer.", tag_keys=("model",))
        self._probe_failures = metrics.Counter(
            PROBE_FAILURES_TOTAL, description="Failed health probes.", tag_keys=("model",)
        )
        for metric in (
            *(self._seconds, self._tokens, self._rejected),
            *(self._ready, self._probe_failures),
        ):
            metric.set_default_tags({"model": model})  # Serve adds its own tags to this dict

    def observe(self, route: str, code: int, seconds: float) -> None:
        """Add one request to the histogram."""
        self._seconds.observe(seconds, tags={"route": route, "code": str(code)})

    def rejected(self, reason: str) -> None:
        """Add one to the refused requests."""
        self._rejected.inc(tags={"reason": reason})

    def batch(self, tokens: int) -> None:
        """Add one run of the model to the histogram."""
        self._tokens.observe(tokens)

    def ready(self, is_ready: bool) -> None:
        """Set the gauge."""
        self._ready.set(float(is_ready))

    def probe_failed(self) -> None:
        """Add one to the failed probes."""
        self._probe_failures.inc()
