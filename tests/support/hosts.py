"""Several hosts on one machine: network namespaces joined by a bridge, a Ray node in each.

Each host has its own address, ports and interfaces; storage is shared, as over NFS. Needs root.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
RESOLVER = Path("/etc/resolv.conf")
START_DEADLINE_S = 120
START_ATTEMPTS = 3
HEAD = ("--head", "--port=6379", "--include-dashboard=false", "--no-monitor")
QUICK_DETECTION = {  # a dead node is noticed within seconds
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "2",
}
WITHOUT_ROOT = "unshare -Urnm --fork sh -c 'mount -t tmpfs none /run && ip link set lo up && ...'"
"""A shell command in which hosts can be made where users may have namespaces of their own."""
MUST_RUN = "ORCHESTRATOR_TEST_HOSTS"
"""With this variable set to ``required`` a test that needs hosts fails where it cannot run."""


def shipped_detection() -> dict[str, str]:
    """Return the health-check settings with which ``cluster.yaml`` starts a head."""
    text = (ROOT / "cluster.yaml").read_text()
    found = dict(re.findall(r"\b(RAY_health_check_\w+)=(\d+)", text))
    assert len(found) >= 3, "cluster.yaml names no health-check settings"
    return found


def why_not() -> str | None:
    """Return why no hosts can be made here; None: they can."""
    if os.geteuid() != 0:
        return f"making network namespaces needs root; without: {WITHOUT_ROOT}"
    name = f"probe{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", b"") or str(error).encode()
        return f"network namespaces are not permitted here: {detail.decode().strip()}"
    return None


def require_hosts() -> None:
    """Skip, loudly, where no hosts can be made; fail where they are required, as in CI."""
    reason = why_not()
    if reason is None:
        return
    if os.environ.get(MUST_RUN) == "required":
        pytest.fail(f"{MUST_RUN}=required, but {reason}")
    warnings.warn(f"NOT TESTED, several hosts: {reason}", stacklevel=2)  # in every summary
    pytest.skip(reason)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@dataclass
class Host:
    """One host: a namespace with an address, a cable, and what runs in it."""

    name: str
    address: str
    cable: str
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

    def pids(self, named: str = "") -> list[int]:
        """Return the processes here whose command line has a text."""
        shown = subprocess.run(
            ["ip", "netns", "pids", self.name],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return [pid for pid in map(int, shown.stdout.split()) if named in _command(pid)]

    def kill(self) -> None:
        """Kill every process here at once, as a power cut would."""
        for _ in range(10):
            pids = self.pids()
            if not pids:
                break
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for process in self.processes:
            process.wait(timeout=30)

    def kill_raylet(self) -> None:
        """Kill Ray's node process alone; what it started notices."""
        (pid,) = self.pids("/raylet/raylet ")
        os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.cable, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.cable, "up")

    def traffic(self, *shaping: str) -> bool:
        """Shape what leaves this host (``tc qdisc``); False where the kernel cannot."""
        command = ["ip", "netns", "exec", self.name, "tc", "qdisc", "replace", "dev", "eth0"]
        done = subprocess.run([*command, "root", *shaping], capture_output=True, check=False)
        return done.returncode == 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@contextmanager
def hosts(count: int, detection: dict[str, str] = QUICK_DETECTION):
    """Make ``count`` hosts that reach one another; everything is removed at the end."""
    tag = secrets.token_hex(3)
    bridge = f"br{tag}"
    subnet = f"10.{77 + os.getpid() % 100}.{secrets.randbelow(250)}"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env |= {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
    env |= detection
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for index in range(count):
            cable = f"v{tag}{index}"
            host = Host(f"h{tag}{index}", f"{subnet}.{10 + index}", cable, env)
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            stack.callback(host.kill)
            _connect(host, bridge)
            made.append(host)
        yield made


def _connect(host: Host, bridge: str) -> None:
    _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _ip("link", "set", host.cable, "master", bridge, "up")
    for command in (
        ("addr", "add", f"{host.address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
        # A process finds out its host's address, and with it which node is its own, by this.
        ("route", "add", "default", "dev", "eth0"),
    ):
        _ip("-n", host.name, *command)
    # A name server that cannot be reached costs each start of a process group six seconds, in
    # which the resolver waits for it: torch looks up the names of its peers. Refuse at once.
    for server in re.findall(r"^nameserver\s+([\d.]+)$", RESOLVER.read_text(), re.MULTILINE):
        if not server.startswith("127."):
            _ip("-n", host.name, "route", "add", "unreachable", server)


def start_ray(made: list[Host], stack: ExitStack) -> str:
    """Start a head on the first host and a node on each other, with one CPU each.

    Returns:
        The address for drivers.
    """
    address = f"{made[0].address}:6379"
    start_node(made[0], None, stack)
    for host in made[1:]:
        start_node(host, address, stack)
    return address


def start_node(host: Host, head: str | None, stack: ExitStack, cpus: int = 1) -> None:
    """Start a head (``head`` is None) or a node that joins one; once more if it comes up late."""
    for attempt in range(1, START_ATTEMPTS + 1):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rn", dir="/tmp")))
        joining = (*HEAD, f"--temp-dir={folder}") if head is None else (f"--address={head}",)
        log = folder / "start.log"
        command = [str(BIN / "ray"), "start", "--block", f"--node-ip-address={host.address}"]
        options = (
            f"--num-cpus={cpus}",
            "--object-store-memory=100000000",
            "--include-log-monitor=false",
        )
        process = host.start(*command, *options, *joining, log=log)
        if _started(process, log):
            return
        text = log.read_text()
        host.kill()
        if attempt == START_ATTEMPTS:
            raise RuntimeError(f"a node did not start:\n{text}")


def node_of(host: Host) -> str:
    """Return Ray's id of the node on a host."""
    (pid,) = host.pids("/raylet/raylet ")
    return re.search(r"--node[_-]id=([0-9a-f]{56})", _command(pid)).group(1)


def drain(host: Host, head: str, node: str, notice_s: float) -> None:
    """Announce from a host that a node will be taken away, as an autoscaler does."""
    command = [str(BIN / "ray"), "drain-node", f"--address={head}", f"--node-id={node}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=reclaimed"]
    command += [f"--deadline-remaining-seconds={notice_s:.0f}"]
    in_host = ["ip", "netns", "exec", host.name, *command]
    subprocess.run(in_host, check=True, capture_output=True, env=host.env, timeout=120)


def _started(process: subprocess.Popen, log: Path) -> bool:
    deadline = time.monotonic() + START_DEADLINE_S
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
