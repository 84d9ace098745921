"""Several hosts on one machine: network namespaces joined by a bridge, a Ray node in each.

Each host has its own address, ports and interfaces; storage is shared, as over NFS. Needs root.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
START_DEADLINE_S = 150
QUICK_DETECTION = {  # a dead node is noticed within seconds, not a minute
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}


def why_not() -> str | None:
    """Return why no hosts can be made here; None: they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    name = f"probe{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces are not permitted here: {error}"
    return None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@dataclass
class Host:
    """One host: a namespace with an address, and what runs in it."""

    name: str
    address: str
    env: dict
    processes: list = field(default_factory=list)

    def start(self, *command: str, log: Path, **options) -> subprocess.Popen:
        """Start a command here; its output goes to ``log``."""
        with log.open("w") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                env=self.env,
                stdout=options.pop("stdout", output),
                stderr=output,
                text=True,
                start_new_session=True,
                **options,
            )
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """Kill every process here at once, as a power cut would."""
        for _ in range(10):
            shown = subprocess.run(
                ["ip", "netns", "pids", self.name],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            pids = [int(pid) for pid in shown.stdout.split()]
            if not pids:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)
        for process in self.processes:
            process.wait(timeout=30)


@contextmanager
def hosts(count: int):
    """Make ``count`` hosts that reach one another; everything is removed at the end."""
    tag = secrets.token_hex(3)
    bridge = f"br{tag}"
    subnet = f"10.{77 + os.getpid() % 100}.{secrets.randbelow(250)}"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env |= {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", **QUICK_DETECTION}
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for index in range(count):
            host = Host(f"h{tag}{index}", f"{subnet}.{10 + index}", env)
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            stack.callback(host.kill)
            _connect(host, bridge, f"v{tag}{index}")
            made.append(host)
        yield made


def _connect(host: Host, bridge: str, link: str) -> None:
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _ip("link", "set", link, "master", bridge, "up")
    for command in (
        ("addr", "add", f"{host.address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _ip("-n", host.name, *command)


def start_ray(made: list[Host], stack: ExitStack) -> str:
    """Start a head on the first host (no CPU of its own) and a node with one CPU on each other.

    Returns:
        The address for drivers.
    """
    address = f"{made[0].address}:6379"
    logs = []
    for index, host in enumerate(made):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rn", dir="/tmp")))
        joining = (
            ("--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}")
            if index == 0
            else (f"--address={address}",)
        )
        log = folder / "start.log"
        command = [str(BIN / "ray"), "start", "--block", f"--node-ip-address={host.address}"]
        host.start(*command, f"--num-cpus={min(index, 1)}", *joining, log=log)
        logs.append(log)
        if index == 0:
            _wait_for_start(log)
    for log in logs:
        _wait_for_start(log)
    return address


def _wait_for_start(log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while "Ray runtime started" not in log.read_text():
        if time.monotonic() > deadline:
            raise RuntimeError(f"a node did not start in time:\n{log.read_text()}")
        time.sleep(0.2)
