"""Preflight: the package that a config names, and the HTTP port, checked before anything starts.

Ray Serve itself would find out a minute later.
"""

import errno
import http.client
import ipaddress
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from orchestrator.config import require_no_problems
from orchestrator.errors import InputError
from orchestrator.storage.uris import absolute
from serving.config import ServingConfig
from serving.guard.keys import KeyRing

if TYPE_CHECKING:
    from orchestrator.zoo import Package


def resolve(config: ServingConfig) -> "Package":
    """Return the verified package a config names.

    Raises:
        ConfigError: settings contradict each other.
        InputError: the zoo, package, version or alias does not exist, the package cannot be served,
            or the key file is unusable.
        IntegrityError: the package is damaged.
    """
    from orchestrator.zoo import Zoo
    from serving.model.engine import require_served

    require_no_problems(config, "serving config")
    if config.api_keys_file is not None:
        KeyRing.load(config.api_keys_file)
    package = Zoo(config.zoo).get(config.model)
    require_served(package, config.target)
    return package


def pin(config: ServingConfig) -> ServingConfig:
    """Return the config for replicas: one version, absolute paths.

    Replicas started later serve the same bytes even if the alias moves, and run in another working
    directory.

    Raises:
        ConfigError, InputError, IntegrityError: As `resolve`.
    """
    keys = config.api_keys_file
    return config.model_copy(
        update={
            "model": resolve(config).ref,
            "zoo": absolute(config.zoo),
            "api_keys_file": None if keys is None else absolute(keys),
        }
    )


_NOT_OURS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
ANSWER_TIMEOUT_S: Final = 2.0
SUGGESTED: Final = 20
"""Number of following ports that are tried for a suggestion."""


def require_free_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on.

    Raises:
        InputError: The port is out of range, taken, or the address is not this machine's.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"port: {port} is not a port. Use 1 to 65535.")
    error = _try(host, port)
    if error is None:
        return
    if isinstance(error, socket.gaierror) or error.errno in _NOT_OURS:
        raise InputError(f"host: '{host}' is not an address of this machine ({error.strerror}).")
    free = next((p for p in range(port + 1, port + SUGGESTED) if _try(host, p) is None), None)
    advice = f"Use another one (--port {free} is free)" if free else "Use another one"
    raise InputError(
        f"port: {host}:{port} cannot be used ({error.strerror}). {advice}, or stop what listens "
        "there."
    ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def answers_as_serve(host: str, port: int) -> bool:
    """Return whether a Ray Serve proxy answers there: starting again will update it."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/-/healthz")
        response = connection.getresponse()
        return response.status < HTTPStatus.BAD_REQUEST and response.read(64) == b"success"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _try(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections linger is free, one with a listener is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
