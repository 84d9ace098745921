"""Serve a package from Python, inside the Ray this process is connected to.

`start` returns when a replica is ready to answer; `stop` returns when its requests are finished.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.errors import InputError, StageError
from serving.config import ServingConfig
from serving.preflight import answers_as_serve, require_free_port
from serving.serve_file import DEFAULT_HOST, DEFAULT_PORT, Plan, check_plan

_ERROR_LINE: Final = re.compile(r"[\w.]*(Error|Exception)\b.*: ")
STOP_DEADLINE_S: Final = 60.0
TIMEOUT_MARGIN_S: Final = 5.0
"""The proxy gives up this much later than the replica, whose answer says more."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running application.

    Attributes:
        url: Where it answers, without a slash at the end.
        model: Pinned reference of the served package, ``name/v0001``.
        name: Name of the Serve application.
        started_serve: Whether Serve did not run before, so that `stop` ends it.
    """

    url: str
    model: str
    name: str
    started_serve: bool


def start(
    config: ServingConfig,
    port: int = DEFAULT_PORT,
    *,
    host: str = DEFAULT_HOST,
    name: str = "default",
) -> Served:
    """Start serving on an initialized Ray; a second call with the same name updates in place.

    Args:
        config: What to serve.
        port: HTTP port.
        host: Address to listen on.
        name: Name of the Serve application.

    Raises:
        ConfigError, InputError, IntegrityError: Nothing was started; the message says why.
        StageError: A replica could not start.
    """
    return run_plan(Plan(config, host=host, port=port, name=name))


def run_plan(plan: Plan) -> Served:
    """Start what a plan describes; see `start`."""
    import ray

    from serving.deployment import deployment
    from serving.preflight import pin

    if not ray.is_initialized():
        raise InputError("No Ray is connected: call this inside a Ray session.")
    check_plan(plan)
    config = pin(plan.config)
    application = deployment(config)
    with _quietly():
        served = Served(plan.url, config.model, plan.name, _start_proxy(plan))
        _run(served, application, plan.route_prefix)
    return served


def _run(served: Served, application: Any, route_prefix: str) -> None:
    """Wait until the application answers. When it cannot, an older version of it goes on."""
    from ray import serve

    is_update = served.name in serve.status().applications
    try:
        serve.run(application, name=served.name, route_prefix=route_prefix)
    except BaseException as error:
        reason = _reason(served.name)
        if not is_update:
            stop(served)
        if isinstance(error, RuntimeError):
            raise StageError(f"{served.model} could not be served: {reason or error}") from error
        raise


def stop(served: Served | None = None) -> None:
    """Stop serving: replicas finish their requests first. Ray stays.

    Args:
        served: The result of `start`: only this application ends if Serve ran before it. None ends
            Serve with all its applications.
    """
    from ray import serve

    with _quietly():
        if served is None or served.started_serve:
            _end_controller()
            serve.shutdown()
        else:
            serve.delete(served.name)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide Serve's messages about starting and stopping."""
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _end_controller() -> None:
    """Let the controller drain and end everything, and wait until it is gone.

    ``serve.shutdown`` alone waits in a call that the controller never answers: it dies with it, and
    Ray prints that as a failed task although all went well. Afterwards it only forgets its handles.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    deadline = time.monotonic() + STOP_DEADLINE_S
    asked = False
    while time.monotonic() < deadline:
        try:
            controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            if not asked:
                ray.get(controller.graceful_shutdown.remote(wait=False))
                asked = True
        except (ValueError, ray.exceptions.RayActorError):
            return  # gone
        time.sleep(0.1)


def _reason(application: str) -> str:
    """Return what the replicas died of: the last line of the trace in Serve's status."""
    from ray import serve

    found = serve.status().applications.get(application)
    if found is None:
        return ""
    messages = [deployment.message for deployment in found.deployments.values()]
    lines = [line.strip() for message in messages for line in message.splitlines()]
    # Serve appends advice of its own after the trace; the error is the line that names a type.
    errors = [line for line in lines if _ERROR_LINE.match(line)]
    return str(errors[-1] if errors else found.message.strip())


def _start_proxy(plan: Plan) -> bool:
    """Start Serve at the plan's address, or check that the running one is there.

    Returns:
        Whether Serve was started.
    """
    from ray import serve

    if serve.status().proxies:
        if not answers_as_serve(plan.host, plan.port):
            raise InputError(
                f"port: this Ray already serves, but not at {plan.host}:{plan.port}, and the "
                "address cannot change while it does. Use the same one, or `serve shutdown` first."
            )
        return False
    require_free_port(plan.host, plan.port)
    timeout = plan.config.limits.request_timeout_s + TIMEOUT_MARGIN_S
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": plan.host, "port": plan.port, "request_timeout_s": timeout},
        logging_config={"enable_access_log": False},
    )
    return True
