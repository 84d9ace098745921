"""The guard alone, in front of an application that only counts."""

import asyncio
import json

import pytest
from fastapi import FastAPI

from serving.config import Limits
from serving.guard.errors import STATUS, ErrorType
from serving.guard.guard import Guard, Policy
from serving.guard.keys import KeyRing, new_key
from tests.support.serving import NoRecorder

JSON = (b"content-type", b"application/json")


class Inner:
    """Answers 200 with the length of the body it was given."""

    def __init__(self, delay=0.0):
        self.calls = 0
        self.delay = delay

    async def __call__(self, scope, receive, send):
        self.calls += 1
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
        await asyncio.sleep(self.delay)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


class Counts(NoRecorder):
    """Keeps routes and codes."""

    def __init__(self):
        self.seen = []

    def observe(self, route, code, seconds):
        self.seen.append((route, code))

    def rejected(self, reason):
        raise AssertionError(reason)


class Client:
    """One ASGI connection whose body chunks the test decides; counts what was read."""

    def __init__(self, chunks=(b"{}",), *, stall=False):
        self.chunks = list(chunks)
        self.stall = stall
        self.read = 0
        self.sent = []

    async def receive(self):
        if not self.chunks:
            if self.stall:
                await asyncio.sleep(3600)
            return {"type": "http.disconnect"}
        chunk = self.chunks.pop(0)
        self.read += len(chunk)
        more = bool(self.chunks) or self.stall
        return {"type": "http.request", "body": chunk, "more_body": more}

    async def send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])

    @property
    def error(self):
        return json.loads(self.sent[1]["body"])


def request(guard, client, *, path="/predict", method="POST", headers=(JSON,)):
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": list(headers),
    }
    asyncio.run(guard(scope, client.receive, client.send))
    return client


def guard_with(inner=None, *, keys=None, recorder=None, **limits):
    policy = Policy(Limits(**limits), keys)
    return Guard(inner or Inner(), policy=policy, recorder=recorder or NoRecorder())


def test_a_good_request_reaches_the_application_whole():
    client = request(guard_with(), Client([b'{"a": ', b'"b"}']))
    assert (client.status, client.sent[1]["body"]) == (200, b"10")
    assert client.headers[b"x-request-id"]
    assert float(client.headers[b"x-total-time"]) >= 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([JSON, (b"x-long", b"x" * 17_000)], 431),
        ([JSON, (b"content-encoding", b"gzip")], 415),
        ([JSON, (b"content-length", b"x")], 400),
        ([JSON, (b"content-length", b"-1")], 400),
        ([JSON, (b"content-length", b"\xb2")], 400),
        ([JSON, (b"content-length", b"101")], 413),
        ([JSON, (b"content-length", b"9" * 5000)], 413),
        ([JSON, (b"content-length", b"100")], 200),
    ],
)
def test_headers_are_judged_before_the_body_is_read(headers, status):
    inner = Inner()
    client = request(guard_with(inner, max_body_bytes=100), Client(), headers=headers)
    assert client.status == status
    if status != 200:
        assert (client.read, inner.calls) == (0, 0)
        assert client.error["error_type"] in set(ErrorType)


def test_a_body_without_declared_length_is_cut_off_at_the_limit():
    inner = Inner()
    client = request(guard_with(inner, max_body_bytes=1000), Client([b"a" * 400] * 1000))
    assert client.status == 413
    assert client.read <= 1000 + 400
    assert client.headers[b"connection"] == b"close"
    assert inner.calls == 0


def test_a_body_that_stops_coming_is_given_up():
    client = request(guard_with(body_timeout_s=0.05), Client([b"{"], stall=True))
    assert (client.status, client.error["error_type"]) == (408, "body_timeout")


def test_a_client_that_leaves_in_the_middle_of_its_body():
    class Leaving(Client):
        async def receive(self):
            return {"type": "http.disconnect"}

    inner, client, counts = Inner(), Leaving(), Counts()
    guard = guard_with(inner)
    guard.recorder = counts
    request(guard, client)
    assert (inner.calls, client.sent) == (0, [])
    assert counts.seen == [("unmatched", 499)]  # neither an error of the server nor a bad request


def test_a_request_that_takes_too_long_is_answered_504():
    client = request(guard_with(Inner(delay=3600), request_timeout_s=0.05), Client())
    assert (client.status, client.error["error_type"]) == (504, "timeout")


def test_keys_are_asked_for_everywhere_but_on_health_and_documentation():
    secret, line = new_key("alice")
    name, digest = line.split(":")
    guard = guard_with(keys=KeyRing({name: bytes.fromhex(digest)}))
    good = (b"authorization", f"Bearer {secret}".encode())
    assert request(guard, Client(), headers=[JSON, good]).status == 200
    for wrong in ([], [(b"authorization", b"Bearer x")], [(b"authorization", b"\xff")]):
        client = request(guard, Client(), headers=[JSON, *wrong])
        assert (client.status, client.read) == (401, 0)
        assert client.headers[b"www-authenticate"] == b"Bearer"
    for path in ("/healthz", "/readyz", "/health", "/ping", "/docs", "/openapi.json"):
        assert request(guard, Client(), path=path, method="GET", headers=[]).status == 200
    for path in ("/info", "/v1/models", "/v2", "/healthz/", "//healthz", "/unknown"):
        assert request(guard, Client(), path=path, method="GET", headers=[]).status == 401


def test_a_route_prefix_does_not_hide_the_health_routes():
    guard = guard_with(keys=KeyRing({"a": bytes(32)}))

    def status(path, root):
        client = Client()
        scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": []}
        asyncio.run(guard(scope, client.receive, client.send))
        return client.status

    assert status("/text/healthz", "/text") == status("/text/healthz", "/text/") == 200
    assert status("/text/info", "/text") == status("/other/healthz", "/text") == 401


def test_more_requests_than_slots_are_told_to_come_back():
    async def several():
        guard = guard_with(Inner(delay=0.2), max_concurrent_requests=2)
        clients = [Client() for _ in range(5)]
        health = Client()
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [JSON]}
        probe = {"type": "http", "method": "GET", "path": "/healthz", "headers": []}
        await asyncio.gather(
            *(guard(dict(scope), client.receive, client.send) for client in clients),
            guard(probe, health.receive, health.send),
        )
        return clients, health, guard

    clients, health, guard = asyncio.run(several())
    assert sorted(client.status for client in clients) == [200, 200, 429, 429, 429]
    refused = next(client for client in clients if client.status == 429)
    assert int(refused.headers[b"retry-after"]) > 0
    assert health.status == 200
    assert guard.active == 0


def test_the_clients_request_id_is_kept_and_bounded():
    known = request(guard_with(), Client(), headers=[JSON, (b"x-request-id", b"abc-1")])
    assert known.headers[b"x-request-id"] == b"abc-1"
    long = request(guard_with(), Client(), headers=[JSON, (b"x-request-id", b"x" * 10_000)])
    assert len(long.headers[b"x-request-id"]) <= 128
    wrong = (b"content-encoding", b"gzip")
    refused = request(guard_with(), Client(), headers=[wrong, (b"x-request-id", b"abc-2")])
    assert refused.error["request_id"] == "abc-2"


def test_a_valid_trace_is_passed_on():
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    client = request(guard_with(), Client(), headers=[JSON, (b"traceparent", trace)])
    assert client.headers[b"traceparent"] == trace
    nobody = b"-".join([b"00", b"0" * 32, b"1" * 16, b"01"])
    for wrong in (b"", b"x", trace[:-1], nobody):
        client = request(guard_with(), Client(), headers=[JSON, (b"traceparent", wrong)])
        assert b"traceparent" not in client.headers


def test_errors_below_v1_are_those_of_openai():
    client = request(guard_with(keys=KeyRing({"a": bytes(32)})), Client(), path="/v1/embeddings")
    assert client.status == 401
    assert client.error["error"]["code"] == "unauthorized"
    assert client.error["error"]["type"] == "invalid_request_error"
    assert client.error["request_id"] == client.headers[b"x-request-id"].decode()


def test_a_failure_inside_is_one_plain_error_and_still_raised_for_the_log():
    async def broken(scope, receive, send):
        raise RuntimeError("secret path /etc/model")

    client = Client()
    with pytest.raises(RuntimeError):
        request(guard_with(broken), client)
    assert (client.status, client.error["error_type"]) == (500, "internal")
    assert "secret" not in client.error["error"]


def test_everything_is_measured_by_route_template():
    class Keep(NoRecorder):
        def __init__(self):
            self.requests, self.reasons = [], []

        def observe(self, route, code, seconds):
            self.requests.append((route, code))

        def rejected(self, reason):
            self.reasons.append(str(reason))

    recorder = Keep()
    app = FastAPI()

    @app.get("/things/{name}")
    async def things(name: str) -> str:
        return name

    guard = guard_with(app, recorder=recorder)
    request(guard, Client(), path="/things/7", method="GET", headers=[])
    request(guard, Client(), path="/wp-admin", method="GET", headers=[])
    request(guard, Client(), headers=[(b"content-encoding", b"gzip")])
    assert recorder.requests == [("/things/{name}", 200), ("unmatched", 404), ("unmatched", 415)]
    assert recorder.reasons == ["media_type"]


def test_websockets_are_closed_and_lifespan_passes():
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    client = Client()
    guard = guard_with(inner)
    asyncio.run(
        guard({"type": "websocket", "path": "/", "headers": []}, client.receive, client.send)
    )
    asyncio.run(guard({"type": "lifespan"}, client.receive, client.send))
    assert client.sent == [{"type": "websocket.close", "code": 1003}]
    assert seen == ["lifespan"]


def test_every_error_type_has_a_status():
    assert set(STATUS) == set(ErrorType)
    assert all(400 <= status < 600 for status in STATUS.values())


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/jsonp", "application/json; charset=latin-1", "image/png"],
)
def test_a_route_refuses_other_media_types_than_it_reads(call, content_type):
    headers = {"content-type": content_type} if content_type else {}
    answer = call("POST", "/predict", content=b'{"inputs": "a"}', headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (415, "media_type")
    headers = {"content-type": "Application/JSON; charset=UTF-8"}
    assert call("POST", "/predict", content=b'{"inputs": "a"}', headers=headers).status_code == 200


def test_deep_nesting_is_refused_before_it_is_parsed(call):
    body = b'{"inputs": ' + b"[" * 100_000
    headers = {"content-type": "application/json"}
    answer = call("POST", "/predict", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "malformed")


def test_a_key_does_what_its_scopes_say(call, served):
    secret, line = new_key("alice", "embed,read")
    name, digest, scopes = line.split(":")
    served.policy.keys = KeyRing(
        {name: bytes.fromhex(digest)}, {name: frozenset(scopes.split(","))}
    )
    headers = {"authorization": f"Bearer {secret}"}
    assert call("POST", "/embed", json={"inputs": "a"}, headers=headers).status_code == 200
    assert call("GET", "/info", headers=headers).status_code == 200
    refused = call("POST", "/predict", json={"inputs": "a"}, headers=headers)
    assert (refused.status_code, refused.json()["error_type"]) == (403, "forbidden")
    assert call("POST", "/", json={"inputs": "a"}).status_code == 401
