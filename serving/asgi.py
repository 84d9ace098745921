"""The HTTP application: every route, behind the guard. Knows nothing of Ray.

Handlers take the raw request: bodies were read and bounded by the guard and are parsed by
`serving.body`, so nothing on the way of a request builds a validation model.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import orchestrator
from serving.body import parse_object
from serving.errors import STATUS, ErrorType, ServingError
from serving.guard import Guard, Policy
from serving.metrics import Recorder
from serving.protocols import examples, native, openai, openinference
from serving.service import Service

Endpoint = Callable[[Service, dict[str, Any]], Awaitable[Any]]


def create_app(
    service: Service, policy: Policy, recorder: Recorder, *, sets_request_id: bool = True
) -> FastAPI:
    """Build the application that answers for one service.

    Args:
        service: the served package.
        policy: limits and keys the guard enforces; shared, so changes take effect at once.
        recorder: where measurements go.
        sets_request_id: whether responses get ``X-Request-ID`` here; Serve's proxy adds it itself.
    """
    app = FastAPI(
        title=service.card.name,
        version=orchestrator.__version__,
        description="One model package behind three protocols. Errors of all routes have the form "
        '`{"error", "error_type", "request_id"}`.',
        redoc_url=None,
    )
    app.add_middleware(
        Guard,  # type: ignore[arg-type]  # Starlette's protocol asks for mutable-mapping aliases
        policy=policy,
        recorder=recorder,
        sets_request_id=sets_request_id,
    )
    app.add_exception_handler(HTTPException, _refuse)
    _add_health(app, service)
    _add_native(app, service)
    _add_openinference(app, service)
    _add_openai(app, service)
    return app


async def _refuse(_request: Request, error: Exception) -> Response:
    """Turn the router's own 404 and 405 into this service's errors; the guard answers them."""
    if isinstance(error, HTTPException) and error.status_code == STATUS[ErrorType.NOT_FOUND]:
        raise ServingError(ErrorType.NOT_FOUND, "There is no such route; see /docs.") from error
    if (
        isinstance(error, HTTPException)
        and error.status_code == STATUS[ErrorType.METHOD_NOT_ALLOWED]
    ):
        message = "This route does not answer that method; see /docs."
        raise ServingError(ErrorType.METHOD_NOT_ALLOWED, message) from error
    raise error


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], summary="The process answers.")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    async def ready() -> dict[str, str]:
        if not service.health.ready:
            raise ServingError(ErrorType.UNHEALTHY, "The model is not ready.")
        return {"status": "ready"}

    async def probed() -> dict[str, str]:
        if not (service.health.ready and service.health.probe_ok):
            raise ServingError(ErrorType.UNHEALTHY, "The model failed its last probe.")
        return {"status": "healthy"}

    app.get("/readyz", tags=["health"], summary="The model is loaded and warmed up.")(ready)
    app.get("/health", tags=["health"], summary="The last inference probe was right.")(probed)


def _add_native(app: FastAPI, service: Service) -> None:
    _post(app, "/predict", service, native.predict, "native", "Classify texts.", examples.PREDICT)
    _post(app, "/embed", service, native.embed, "native", "Embed texts.", examples.EMBED)
    _post(app, "/tokenize", service, native.tokenize, "native", "Show tokens.", examples.TOKENIZE)

    @app.get("/info", tags=["native"], summary="The served model and its limits.")
    async def info() -> Response:
        return JSONResponse(service.card.info(service.policy.limits))


def _add_openinference(app: FastAPI, service: Service) -> None:
    tag, card = "open inference", service.card

    @app.get("/v2", tags=[tag], summary="Server metadata.")
    async def server() -> dict[str, Any]:
        return openinference.server()

    @app.get("/v2/health/live", tags=[tag], summary="The process answers.")
    async def live() -> dict[str, bool]:
        return {"live": True}

    async def ready() -> dict[str, bool]:
        if not service.health.ready:
            raise ServingError(ErrorType.UNHEALTHY, "The model is not ready.")
        return {"ready": True}

    async def model_ready(model: str, version: str | None = None) -> dict[str, bool]:
        openinference.model(card, model, version)
        return await ready()

    async def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        return openinference.model(card, model, version)

    app.get("/v2/health/ready", tags=[tag], summary="The model can answer.")(ready)
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.get(base, tags=[tag], summary="Model metadata.")(metadata)
        app.get(f"{base}/ready", tags=[tag], summary="The model can answer.")(model_ready)
        _post_infer(app, f"{base}/infer", service, tag)


def _post_infer(app: FastAPI, path: str, service: Service, tag: str) -> None:
    async def infer(request: Request) -> Response:
        place = request.path_params
        body = parse_object(await request.body(), service.policy.limits.max_json_depth)
        answer = await openinference.infer(service, place["model"], place.get("version"), body)
        return JSONResponse(answer)

    _register(app, path, infer, tag, "Run the model.", examples.INFER)


def _add_openai(app: FastAPI, service: Service) -> None:
    created = int(time.time())
    tag = "openai"
    _post(
        app, "/v1/embeddings", service, openai.embeddings, tag, "Embed texts.", examples.EMBEDDINGS
    )

    @app.get("/v1/models", tags=[tag], summary="The served model.")
    async def models() -> dict[str, Any]:
        return openai.models(service.card, created)

    @app.get("/v1/models/{model}", tags=[tag], summary="The served model.")
    async def model(model: str) -> dict[str, Any]:
        return openai.model(service.card, model, created)


def _post(
    app: FastAPI,
    path: str,
    service: Service,
    endpoint: Endpoint,
    tag: str,
    summary: str,
    example: dict[str, Any],
) -> None:
    async def handle(request: Request) -> Response:
        body = parse_object(await request.body(), service.policy.limits.max_json_depth)
        return JSONResponse(await endpoint(service, body))

    _register(app, path, handle, tag, summary, example)


def _register(
    app: FastAPI,
    path: str,
    handler: Callable[[Request], Awaitable[Response]],
    tag: str,
    summary: str,
    example: dict[str, Any],
) -> None:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    app.post(
        path,
        tags=[tag],
        summary=summary,
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )(handler)
