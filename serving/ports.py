"""Checks of HTTP ports before anything is started: Serve itself finds out a minute later."""

import errno
import http.client
import ipaddress
import socket
from http import HTTPStatus
from typing import Final

from orchestrator.errors import InputError

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
