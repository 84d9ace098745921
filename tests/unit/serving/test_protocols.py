"""A protocol of another package, and protocols that claim the same route."""

import asyncio
import sys

import httpx
import pytest

from orchestrator.errors import InputError
from serving.protocols.protocol import protocols
from tests.support.serving import NoRecorder, application

PLUGIN = '''
from typing import Annotated, Literal

from serving.guard.errors import ErrorType
from serving.protocols.messages import FIRST_ERROR, Message, RequestBody
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol
from orchestrator.inference.inputs import Item


class RouteRequest(RequestBody):
    """Texts to route."""

    texts: Annotated[list[str], FIRST_ERROR]
    """Texts."""


class RouteAnswer(Message):
    """Best class of each text."""

    model: str
    """Package name."""
    labels: list[str]
    """Class names."""


class RouterProtocol(WireProtocol):
    class Config(ProtocolConfig):
        """Best class only."""

        type: Literal["router"] = "router"

    def operations(self):
        yield Operation("POST", "PATH", "Route texts.", self.route, RouteAnswer,
                        RouteRequest, (ErrorType.NOT_FOUND,))

    async def route(self, body: RouteRequest, model: str = "") -> RouteAnswer:
        self.service.card.require_name(model or None)
        found = await self.service.predict([Item(text) for text in body.texts])
        return RouteAnswer(model=self.service.card.name, labels=[answer.label for answer in found])
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution whose protocol `router` answers at a path."""

    def put(path):
        (tmp_path / "router_plugin.py").write_text(PLUGIN.replace("PATH", path), encoding="utf-8")
        info = tmp_path / "router_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: router-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[orchestrator.components]\nprotocol.router = router_plugin:RouterProtocol\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))

    yield put
    protocols._entries.pop("router", None)
    sys.modules.pop("router_plugin", None)


def post(app, path, **options):
    async def once():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, **options)

    return asyncio.run(once())


def test_a_protocol_of_another_package_is_served_guarded_and_described(install, engine):
    install("/routers/{model}")
    served = application(engine, NoRecorder())
    answer = post(served.app, "/routers/tiny", json={"texts": ["a", "b"]})
    expected = [
        row[0]["label"] for row in post(served.app, "/predict", json={"inputs": ["a", "b"]}).json()
    ]
    assert answer.json() == {"model": "tiny", "labels": expected}
    refused = post(served.app, "/routers/tiny", json={"texts": ["a", 7], "txt": 1})
    assert refused.status_code == 422
    assert refused.json()["error"] == (
        "1 unknown field(s). Known: texts. `texts[1]` must be a string, not a number."
    )
    assert post(served.app, "/routers/other", json={"texts": ["a"]}).status_code == 404
    assert post(served.app, "/routers/tiny", content=b"{}").status_code == 415
    document = served.app.openapi()
    operation = document["paths"]["/routers/{model}"]["post"]
    assert operation["tags"] == ["router"]
    assert operation["parameters"][0]["name"] == "model"
    assert {"RouteRequest", "RouteAnswer"} <= set(document["components"]["schemas"])


def test_a_protocol_cannot_take_a_route_of_another_one(install, engine):
    install("/predict")
    with pytest.raises(InputError, match="'native' and 'router' both define POST /predict"):
        application(engine, NoRecorder())


def test_the_built_in_protocols_are_registered():
    assert protocols.names() == (
        "cohere",
        "completions",
        "health",
        "native",
        "openai",
        "openinference",
    )
