"""Ray for tests, owned in one place: started with own ports, folders and token, stopped by pid.

``local_ray`` is a private cluster in the test process, shared by the session. ``ray_head`` is what
a user has after ``ray start --head``: a real head node with its dashboard, in processes of its own.
"""

import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.processes import command_of

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 180
START_ATTEMPTS = 3
STARTED = "Ray runtime started"  # `ray start` says so when the node has registered
STOP_DEADLINE_S = 6
PORTS = ("gcs", "dashboard", "agent", "agent_grpc", "metrics", "client", "serve")
WORKER_PORTS = range(10002, 20000)  # Ray gives these to workers; own ports must lie outside


@pytest.fixture(scope="session")
def local_ray():
    """A private cluster in this process; jobs that ask for one share it."""
    from orchestrator.cluster.session import session_for
    from orchestrator.config import ClusterSection

    with session_for(ClusterSection(), workers=0) as session:
        yield session


@pytest.fixture(scope="session")
def ray_head():
    """A head node with a dashboard, as ``ray start --head`` makes it; see :class:`RayHead`."""
    with started_head() as head:
        yield head


@dataclass(frozen=True)
class RayHead:
    """A running head node.

    Attributes:
        address: Of the control service, for drivers.
        dashboard: ``http://host:port``, for ``ray job`` and ``serve``.
        serve_port: A free port for Serve's HTTP proxy.
        env: Environment in which every client command works.
        log: Output of ``ray start``.
        pid: Process id of ``ray start --block``.
    """

    address: str
    dashboard: str
    serve_port: int
    env: dict
    log: Path
    pid: int

    def run(self, *command: str, timeout: float = 300, cwd: Path = ROOT, **env: str):
        """Run a client command to its end; returns a ``CompletedProcess`` with text output."""
        return subprocess.run(
            command,
            cwd=cwd,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextmanager
def started_head(num_cpus: int = 4, autoscaling: dict | None = None):
    """Start a head node and stop everything that belongs to it at the end.

    Ray gives a node 30 seconds to come up, which a busy host can miss: it is tried again.

    Args:
        num_cpus: CPUs of the head node.
        autoscaling: Content of a cluster file for Ray's fake autoscaler, which starts nodes as
            processes of this machine; None: there is none.
    """
    for attempt in range(START_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix="rh", dir="/tmp"))  # socket paths are limited
        head, process = _launch(folder, num_cpus, autoscaling)
        try:
            try:
                _wait_until_ready(head, process)
            except RuntimeError:
                if attempt == START_ATTEMPTS - 1:
                    raise
                continue
            yield head
            return
        finally:
            _stop(process, (str(folder), head.address))
            shutil.rmtree(folder, ignore_errors=True)


def _launch(
    folder: Path, num_cpus: int, autoscaling: dict | None
) -> tuple[RayHead, subprocess.Popen]:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    env = _environment(folder, ports)
    log = folder / "ray-start.log"
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={ports['gcs']}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports['dashboard']}",
        f"--dashboard-agent-listen-port={ports['agent']}",
        f"--dashboard-agent-grpc-port={ports['agent_grpc']}",
        f"--metrics-export-port={ports['metrics']}",
        f"--ray-client-server-port={ports['client']}",
        f"--temp-dir={folder}/t",
        f"--num-cpus={num_cpus}",
        "--object-store-memory=200000000",
        "--disable-usage-stats",
    ]
    if autoscaling is not None:
        provider = autoscaling["provider"] | {"gcs_address": env["RAY_ADDRESS"]}
        content = json.dumps(autoscaling | {"provider": provider})
        (folder / "cluster.json").write_text(content)
        command.append(f"--autoscaling-config={folder}/cluster.json")
        env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    address, dashboard = env["RAY_ADDRESS"], env["RAY_DASHBOARD_ADDRESS"]
    return RayHead(address, dashboard, ports["serve"], env, log, process.pid), process


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, outside the range that Ray gives to its workers."""
    found = []
    while len(found) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found and port not in WORKER_PORTS:
            found.append(port)
    return found


def _environment(folder: Path, ports: dict) -> dict:
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    home = folder / "home"
    home.mkdir()
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
    return {
        **kept,
        "HOME": str(home),
        "XDG_CACHE_HOME": cache,
        # The interpreter that jobs name as `python` is looked up by the head's processes.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": f"127.0.0.1:{ports['gcs']}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard']}",
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{ports['dashboard']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    }


def _wait_until_ready(head: RayHead, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"ray start ended with {process.returncode}:\n{head.log.read_text()}"
            )
        if STARTED in head.log.read_text() and _answers(head):
            return
        time.sleep(0.5)
    raise RuntimeError(f"no dashboard after {START_DEADLINE_S} s:\n{head.log.read_text()}")


def _answers(head: RayHead) -> bool:
    """Return whether the dashboard lists nodes for somebody who has the token."""
    address = urlsplit(head.dashboard)
    token = Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text()
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    try:
        connection.request("GET", "/api/jobs/", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen, marks: tuple[str, ...]) -> None:
    """End the head and everything it started: its children, and whoever names its marks."""
    family = _family(process.pid, marks)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    left = [each for each in {*family, *_family(None, marks)} if each.is_running()]
    for each in left:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=STOP_DEADLINE_S)


def _family(pid: int | None, marks: tuple[str, ...]) -> list:
    """Children of ``pid``, and processes with a mark (folder, address) in their command line."""
    found = []
    if pid is not None and psutil.pid_exists(pid):
        found += psutil.Process(pid).children(recursive=True)
    for process in psutil.process_iter():
        command = command_of(process)
        if any(mark in command for mark in marks):
            found.append(process)
    return [each for each in found if each.pid != os.getpid()]
