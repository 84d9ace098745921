"""The ASGI layer every request passes before anything is parsed.

In this order: size of the headers, a free slot, API key, encoding, declared length, the body itself
(counted while it streams, against a deadline). Only then does the application run, against the
request deadline; it refuses other media types than the route reads, and nesting that is too deep,
before it parses. FastAPI reads a whole body before its dependencies run and has no size limit, so
none of this can live there.

An answer repeats ``X-Request-ID`` and a valid ``traceparent`` (W3C Trace Context); the log names
both.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from serving.config import Limits
from serving.guard.errors import ErrorType, ServingError
from serving.guard.keys import Key, KeyRing
from serving.metrics import Recorder

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DOCS_FILES: Final = "/docs/static"
"""Folder of the script and style of ``/docs``."""

OPEN_PATHS: Final = frozenset(
    {"/healthz", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
    | {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
    | {f"{DOCS_FILES}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")}
)
"""Answered without a key and even when every slot is taken."""

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_MAX_REQUEST_ID: Final = 128
_TRACE: Final = re.compile(rb"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_CLIENT_GONE: Final = 499

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Policy:
    """Rules that the guard enforces; replaced in place when a deployment is reconfigured."""

    limits: Limits
    keys: KeyRing | None = None


class ClientGoneError(Exception):
    """Nobody is there who could be answered."""


class Guard:
    """ASGI middleware: refuse early, answer every error in one shape, measure every request.

    Args:
        app: The application behind the guard.
        policy: Limits and keys.
        recorder: Where measurements go.
        sets_request_id: Add ``X-Request-ID`` to responses; false behind Serve's proxy, which does.
    """

    def __init__(
        self, app: App, *, policy: Policy, recorder: Recorder, sets_request_id: bool = True
    ) -> None:
        self.app = app
        self.policy = policy
        self.recorder = recorder
        self.sets_request_id = sets_request_id
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection as the ASGI specification describes."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        reply = _Reply(send, scope, headers, sets_request_id=self.sets_request_id)
        scope.setdefault("state", {}).update(request_id=reply.request_id, key=None)
        self.active += 1
        try:
            await self._admitted(scope, headers, receive, reply)
        except ServingError as error:
            self.recorder.rejected(error.error_type)
            await reply.error(error)
        except ClientGoneError:
            logger.info("client left request_id=%s", reply.request_id)
        except Exception:
            trace = reply.trace.decode("ascii") or "-"
            logger.exception("request failed request_id=%s trace=%s", reply.request_id, trace)
            await reply.error(ServingError(ErrorType.INTERNAL, "The server failed."))
            raise
        finally:
            self.active -= 1
            seconds = time.perf_counter() - reply.start
            self.recorder.observe(_route(scope), reply.status or _CLIENT_GONE, seconds)

    async def _admitted(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, reply: "_Reply"
    ) -> None:
        limits = self.policy.limits
        if (
            sum(len(name) + len(value) for name, value in scope["headers"])
            > limits.max_header_bytes
        ):
            message = f"The headers are larger than {limits.max_header_bytes} bytes."
            raise ServingError(ErrorType.HEADERS_TOO_LARGE, message)
        if _path(scope) not in OPEN_PATHS:
            if self.active > limits.max_concurrent_requests:
                raise ServingError(ErrorType.OVERLOADED, "All request slots are taken; try again.")
            scope["state"]["key"] = self._key(headers)
        if scope["method"] in _WITH_BODY:
            check_headers(headers, limits)
            body = await read_body(receive, limits)
            receive = _replay(body, receive)
        try:
            async with asyncio.timeout(limits.request_timeout_s) as deadline:
                await self.app(scope, receive, reply.send)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            message = f"No answer within {limits.request_timeout_s:g} s."
            raise ServingError(ErrorType.TIMEOUT, message) from error

    def _key(self, headers: dict[bytes, bytes]) -> Key | None:
        """Return the key of a request; None: the service asks for none."""
        keys = self.policy.keys
        if keys is None:
            return None
        found = keys.owner(headers.get(b"authorization", b""))
        if found is None:
            message = "A valid API key is needed: send `Authorization: Bearer KEY`."
            raise ServingError(ErrorType.UNAUTHORIZED, message)
        return found


class _Reply:
    """Sends the response of one request: its id on every answer, its status for the metrics."""

    def __init__(
        self, send: Send, scope: Scope, headers: dict[bytes, bytes], *, sets_request_id: bool
    ) -> None:
        given = headers.get(b"x-request-id", b"").decode("latin-1")[:_MAX_REQUEST_ID]
        self.request_id = given or str(uuid.uuid4())
        trace = headers.get(b"traceparent", b"")
        self.trace = trace if _TRACE.fullmatch(trace) else b""
        self.path = _path(scope)
        self.start = time.perf_counter()
        self.status = 0
        self._send = send
        self._sets_request_id = sets_request_id

    async def send(self, message: Message) -> None:
        """Pass a message of the application on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            milliseconds = (time.perf_counter() - self.start) * 1000
            added = [(b"x-total-time", b"%.1f" % milliseconds)]
            if self.trace:
                added.append((b"traceparent", self.trace))
            if self._sets_request_id:
                added.append((b"x-request-id", self.request_id.encode("latin-1")))
            message["headers"] = [*message.get("headers", ()), *added]
        await self._send(message)

    async def error(self, error: ServingError) -> None:
        """Answer with an error unless an answer has begun."""
        if self.status:
            return
        content = error.body(self.request_id, self.path).model_dump_json().encode()
        headers = {"content-type": "application/json", "content-length": str(len(content))}
        headers |= error.headers()
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": content})


def check_headers(headers: dict[bytes, bytes], limits: Limits) -> None:
    """Refuse a body by what its headers say.

    Raises:
        ServingError: A compressed body, or a wrong or too large declared length.
    """
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ServingError(ErrorType.MEDIA_TYPE, "Compressed bodies are not accepted.")
    length = headers.get(b"content-length")
    if length is None:
        return
    if not length.isdigit():
        raise ServingError(ErrorType.MALFORMED, "Content-Length is not a number.")
    if len(length) > len(str(limits.max_body_bytes)) or int(length) > limits.max_body_bytes:
        raise _too_large(limits)


async def read_body(receive: Receive, limits: Limits) -> bytes:
    """Read the body, never more than the limit and never longer than the deadline.

    Raises:
        ServingError: Too large or too slow.
        ClientGoneError: The client went away.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limits.max_body_bytes:
                    raise _too_large(limits)
                chunks.append(chunk)
                more = message.get("more_body", False)
    except TimeoutError as error:
        text = f"The body did not arrive within {limits.body_timeout_s:g} s."
        raise ServingError(ErrorType.BODY_TIMEOUT, text) from error
    return b"".join(chunks)


def _too_large(limits: Limits) -> ServingError:
    return ServingError(
        ErrorType.TOO_LARGE, f"The body is larger than {limits.max_body_bytes} bytes."
    )


def _headers(scope: Scope) -> dict[bytes, bytes]:
    # The last of several equal headers counts; ASGI servers lower-case the names.
    return dict(scope["headers"])


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = True

    async def replayed() -> Message:
        nonlocal pending
        if pending:
            pending = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


def _path(scope: Scope) -> str:
    """The path inside the application: Serve puts its route prefix in front of it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def _route(scope: Scope) -> str:
    # The route's template, never the path itself: clients must not choose label values.
    return str(getattr(scope.get("route"), "path", "unmatched"))
