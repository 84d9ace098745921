"""The HTTP application of a loaded package, without Ray and without sockets."""

from types import SimpleNamespace

from orchestrator.inference.batching import run_works
from serving.asgi import create_app
from serving.config import Limits
from serving.guard.guard import Policy
from serving.model.engine import Engine
from serving.model.probe import Probe, ProbeFile
from serving.model.service import Service


class NoRecorder:
    """Measures nothing."""

    def observe(self, route: str, code: int, seconds: float) -> None:
        """Do nothing."""

    def rejected(self, reason: str) -> None:
        """Do nothing."""

    def batch(self, tokens: int) -> None:
        """Do nothing."""

    def ready(self, is_ready: bool) -> None:
        """Do nothing."""

    def probe_failed(self) -> None:
        """Do nothing."""


def probe_json(probe: Probe) -> str:
    """Return the content of ``evaluation/probe.json``."""
    outputs = {name: [row.tolist() for row in rows] for name, rows in probe.outputs.items()}
    file = ProbeFile(schema_version=1, texts=list(probe.texts), outputs=outputs)
    return file.model_dump_json()


def application(engine: Engine, recorder: NoRecorder) -> SimpleNamespace:
    """Return the application with everything a test may want to look at or change."""
    policy = Policy(Limits())

    async def execute(work):
        return run_works([work], engine.run, engine.predictor.cut)[0]

    service = Service(engine, execute, policy)
    service.health.ready = service.health.probe_ok = True
    app = create_app(service, policy, recorder)
    return SimpleNamespace(
        app=app, policy=policy, service=service, recorder=recorder, engine=engine
    )
