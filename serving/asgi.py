"""The HTTP application: every route of every protocol, behind the guard. Knows nothing of Ray.

Handlers take the raw request: the guard has read and bounded its body, and FastAPI's own parsing
accepts a key twice, ``NaN`` and other media types. FastAPI is left with routing and documentation;
request models are therefore added to ``/openapi.json`` here.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.openapi.constants import REF_PREFIX
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

import orchestrator
from orchestrator.errors import InputError
from serving.guard.errors import STATUS, ErrorType, ServingError, error_model
from serving.guard.guard import DOCS_FILES, OPEN_PATHS, Guard, Policy
from serving.guard.keys import Key
from serving.metrics import Recorder
from serving.model.service import Service
from serving.protocols.messages import RequestBody, read
from serving.protocols.protocol import JSON, NO_TYPE, Operation, Received, protocols
from serving.writing import Writer

ALWAYS: Final = (ErrorType.HEADERS_TOO_LARGE, ErrorType.INTERNAL, ErrorType.TIMEOUT)
"""Errors of every route."""
ADMISSION: Final = (ErrorType.UNAUTHORIZED, ErrorType.FORBIDDEN, ErrorType.OVERLOADED)
"""Errors of every route that is not open."""
BODY: Final = (
    *(ErrorType.MALFORMED, ErrorType.EMPTY, ErrorType.BODY_TIMEOUT, ErrorType.TOO_LARGE),
    *(ErrorType.TOO_MANY_INPUTS, ErrorType.TOO_LONG, ErrorType.MEDIA_TYPE, ErrorType.VALIDATION),
)
"""Errors of every route with a body."""


def create_app(
    service: Service, policy: Policy, recorder: Recorder, *, sets_request_id: bool = True
) -> FastAPI:
    """Build the application that answers for one service.

    Args:
        service: The served package.
        policy: Limits and keys the guard enforces; shared, so changes take effect at once.
        recorder: Where measurements go.
        sets_request_id: Whether responses get ``X-Request-ID`` here; Serve's proxy adds it itself.

    Raises:
        InputError: Two protocols define the same route.
    """
    app = FastAPIOffline(
        title="Ray model orchestrator",
        version=orchestrator.__version__,
        description="One model package behind several protocols. Errors have the form "
        '`{"error", "error_type", "request_id"}`; below `/v1` that of OpenAI.',
        redoc_url=None,
        static_url=DOCS_FILES,
    )
    app.add_middleware(
        Guard,  # type: ignore[arg-type]  # Starlette's protocol asks for mutable-mapping aliases
        policy=policy,
        recorder=recorder,
        sets_request_id=sets_request_id,
    )
    app.add_exception_handler(HTTPException, _refuse)
    owners: dict[tuple[str, str], str] = {}
    bodies: list[type[RequestBody]] = []
    for name in protocols.names():
        for operation in protocols.component_class(name)(service).operations():
            owner = owners.setdefault((operation.method, operation.path), name)
            if owner != name:
                raise InputError(
                    f"Protocols {owner!r} and {name!r} both define {operation.method} "
                    f"{operation.path}. Uninstall the package of one of them."
                )
            _add(app, operation, name, policy)
            bodies += operation.bodies
    _document(app, bodies)
    return app


async def _refuse(_request: Request, error: Exception) -> Response:
    """Turn the router's own 404 and 405 into this service's errors; the guard answers them."""
    status = error.status_code if isinstance(error, HTTPException) else None
    if status == STATUS[ErrorType.NOT_FOUND]:
        raise ServingError(ErrorType.NOT_FOUND, "There is no such route; see /docs.") from error
    if status == STATUS[ErrorType.METHOD_NOT_ALLOWED]:
        message = "This route does not answer that method; see /docs."
        raise ServingError(ErrorType.METHOD_NOT_ALLOWED, message) from error
    raise error


def _add(app: FastAPI, operation: Operation, tag: str, policy: Policy) -> None:
    parts = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    text = {"type": "string"}
    parameters = [{"name": part, "in": "path", "required": True, "schema": text} for part in parts]
    extra: dict[str, object] = {"parameters": parameters} if parameters else {}
    if operation.path in OPEN_PATHS:
        extra["security"] = []
    if operation.bodies:
        refs = [{"$ref": f"{REF_PREFIX}{body.__name__}"} for body in operation.bodies]
        schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
        examples = operation.bodies[0].model_json_schema().get("examples", [{}])
        content: dict[str, Any] = {JSON: {"schema": schema, "example": examples[0]}}
        content |= {kind: {} for kind in operation.media if kind not in (JSON, NO_TYPE)}
        extra["requestBody"] = {"required": True, "content": content}
    app.add_api_route(
        operation.path,
        _handler(operation, policy),
        methods=[operation.method],
        tags=[tag],
        name=operation.handler.__name__,
        summary=operation.summary,
        response_model=operation.answer,
        responses=_errors(operation) | _others(operation),
        openapi_extra=extra,
    )


def _others(operation: Operation) -> dict[int | str, dict[str, Any]]:
    """Describe answers of other media types than JSON."""
    if not operation.also:
        return {}
    return {200: {"content": {kind: {"schema": each} for kind, each in operation.also.items()}}}


def _handler(operation: Operation, policy: Policy) -> Callable[[Request], Awaitable[Response]]:
    writer = Writer(operation.answer)
    bodies, parse = operation.bodies, operation.parse

    async def handle(request: Request) -> Response:
        _require_scope(request, operation)
        given: tuple[RequestBody, ...] = ()
        if bodies:
            received = Received(
                await request.body(),
                request.headers.get("content-type", ""),
                request.headers,
                policy.limits.max_json_depth,
            )
            _require_media(received, operation.media)
            if parse is not None:
                given = (parse(received),)
            else:
                given = (read(bodies[0], received.content, received.max_depth),)
        result = await operation.handler(*given, **request.path_params)
        if isinstance(result, Response):
            return result
        content = await writer.write(result, policy.limits.max_answer_bytes)
        return Response(content, media_type=JSON)

    return handle


def _require_scope(request: Request, operation: Operation) -> None:
    """Refuse a key that may not do this."""
    key: Key | None = getattr(request.state, "key", None)
    if key is not None and operation.scope not in key.scopes:
        message = f"This key may not do this: its scopes are {', '.join(sorted(key.scopes))}, "
        raise ServingError(ErrorType.FORBIDDEN, f"{message}and `{operation.scope}` is needed.")


def _require_media(received: Received, allowed: Sequence[str]) -> None:
    """Refuse a body of another media type, or of another encoding than UTF-8."""
    kind = received.media_type
    family = f"{kind.partition('/')[0]}/*"
    if kind not in allowed and family not in allowed:
        named = " or ".join(f"`{each}`" for each in allowed if each != NO_TYPE)
        raise ServingError(ErrorType.MEDIA_TYPE, f"Send `Content-Type:` {named}.")
    charset = received.content_type.partition(";")[2].strip().lower().replace('"', "")
    if charset.startswith("charset=") and charset != "charset=utf-8":
        raise ServingError(ErrorType.MEDIA_TYPE, "Only UTF-8 is understood.")


def _errors(operation: Operation) -> dict[int | str, dict[str, Any]]:
    """Describe each status that the operation can return, with its error types."""
    admission = () if operation.path in OPEN_PATHS else ADMISSION
    types = {*ALWAYS, *admission, *operation.errors, *(BODY if operation.bodies else ())}
    by_status: dict[int, list[str]] = {}
    for error_type in ErrorType:
        if error_type in types:
            by_status.setdefault(STATUS[error_type], []).append(f"`{error_type}`")
    return {
        status: {"model": error_model(operation.path), "description": " or ".join(names)}
        for status, names in by_status.items()
    }


def _document(app: FastAPI, bodies: Sequence[type[RequestBody]]) -> None:
    """Complete the schema of the application, as FastAPI's "Extending OpenAPI" describes."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        components = schema["components"]
        if "securitySchemes" not in components:  # FastAPI keeps what it returned first
            modes: list[tuple[type[RequestBody], Any]] = [(body, "validation") for body in bodies]
            _, definitions = models_json_schema(modes, ref_template=f"{REF_PREFIX}{{model}}")
            components["schemas"] |= definitions["$defs"]
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{}, {"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
