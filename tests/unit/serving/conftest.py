"""A real tiny package behind the real application, without Ray and without sockets."""

import asyncio

import httpx
import pytest

from serving.model.engine import load_engine
from tests.support.packages import commit_tiny
from tests.support.serving import NoRecorder, application


class Recorder(NoRecorder):
    """Keeps what was reported."""

    def __init__(self):
        self.requests = []
        self.rejections = []

    def observe(self, route, code, seconds):
        self.requests.append((route, code))
        assert seconds >= 0

    def rejected(self, reason):
        self.rejections.append(str(reason))


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    from orchestrator.zoo import Zoo

    return commit_tiny(Zoo(str(tmp_path_factory.mktemp("zoo"))))


@pytest.fixture(scope="session")
def engine(package):
    return load_engine(package)


@pytest.fixture
def served(engine):
    """The application with everything a test may want to look at or change."""
    return application(engine, Recorder())


@pytest.fixture
def call(served):
    """Send one request: ``call("POST", "/predict", json={...})``."""

    def send(method, path, **options):
        async def once():
            transport = httpx.ASGITransport(served.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(once())

    return send
