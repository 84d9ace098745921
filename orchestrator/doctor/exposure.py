"""Services of a cluster on this machine: where they listen, and whether they ask for a token.

Both are found out and not assumed: the addresses from the kernel, the authentication by a request
without a token. This shell's variables say nothing about a cluster that somebody else has started.
"""

import http.client
import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.doctor.findings import FAILURE, OK, Finding

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TCP_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTENS: Final = "0A"
DEADLINE_S: Final = 3.0
UNAUTHORIZED: Final = (401, 403)
EMPTY: Final = b"{}"


@dataclass(frozen=True)
class Service:
    """A service with a port of its own.

    Attributes:
        name: What it is.
        asks: Returns whether it asks for a token at (host, port); None: it gave no answer.
        advice: What anyone who reaches it without a token can do, and how to end that.
    """

    name: str
    asks: Callable[[str, int], bool | None]
    advice: str


def over_http(method: str, path: str) -> Callable[[str, int], bool | None]:
    """Return a question that is a request over HTTP without a token."""

    def asks(host: str, port: int) -> bool | None:
        connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_S)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, EMPTY if method == "POST" else None, headers)
            return connection.getresponse().status in UNAUTHORIZED
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    return asks


def over_grpc(method: str) -> Callable[[str, int], bool | None]:
    """Return a question that is a call over gRPC without a token."""

    def asks(host: str, port: int) -> bool | None:
        import grpc  # type: ignore[import-untyped]

        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        silent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        # A proxy of the environment would be asked instead.
        with grpc.insecure_channel(target, (("grpc.enable_http_proxy", 0),)) as channel:
            try:
                channel.unary_unary(method)(b"", timeout=DEADLINE_S)
            except grpc.RpcError as error:
                code = error.code()
                return None if code in silent else code == grpc.StatusCode.UNAUTHENTICATED
        return False

    return asks


RUNS_CODE = "anyone who reaches it can run code; start Ray with RAY_AUTH_MODE=token"
SERVICES: Final[Mapping[int, Service]] = {
    6379: Service("GCS", over_grpc("/ray.rpc.NodeInfoGcsService/CheckAlive"), RUNS_CODE),
    8265: Service("dashboard and jobs", over_http("GET", "/api/jobs/"), RUNS_CODE),
    8000: Service(
        "Serve HTTP",
        over_http("POST", "/predict"),
        "anyone who reaches it can ask the model; set api_keys_file",
    ),
    10001: Service("Ray client", over_grpc("/ray.rpc.RayletDriver/ClusterInfo"), RUNS_CODE),
}


def examine_ports(services: Mapping[int, Service] = SERVICES) -> Iterator[Finding]:
    """Ask each service that listens.

    Args:
        services: Port → service.
    """
    for port, service in services.items():
        yield Finding(f"port {port}", *_judged(service, port))


def _judged(service: Service, port: int) -> tuple[str, str]:
    found = listeners(port)
    if not found:
        return OK, f"{service.name}: free"
    shown = ", ".join(sorted(map(str, found)))
    if all(address.is_loopback for address in found):
        return OK, f"{service.name}: in use, on {shown} only: other machines do not reach it"
    answers = {service.asks(str(_reached(a)), port) for a in found if not a.is_loopback}
    where = f"{service.name} listens on {shown}"
    if answers == {True}:
        return OK, f"{where} and asks for a token"
    if False in answers:
        return FAILURE, f"{where} and asks for no token: {service.advice}"
    return FAILURE, f"{where} and gives no answer about tokens: bind it to 127.0.0.1"


def _reached(address: Address) -> Address:
    """Return an address by which this machine reaches a listener."""
    if not address.is_unspecified:
        return address
    return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")


def listeners(port: int) -> frozenset[Address]:
    """Return the addresses on which a TCP port is open on this machine.

    Where the kernel has no such table, all addresses of this machine are tried.
    """
    tables = [path.read_text() for path in TCP_TABLES if path.exists()]
    if not tables:
        return frozenset(address for address in _own_addresses() if _answers(address, port))
    rows = [line.split() for text in tables for line in text.splitlines()[1:]]
    open_rows = [row[1].split(":") for row in rows if row[3] == LISTENS]
    return frozenset(_address(host) for host, at in open_rows if int(at, 16) == port)


def _address(text: str) -> Address:
    """Read an address as the kernel prints it: words of 4 bytes, each in the order of the host."""
    raw = bytes.fromhex(text)
    words = [raw[at : at + 4] for at in range(0, len(raw), 4)]
    # every machine that Ray runs on is little-endian
    address = ipaddress.ip_address(b"".join(word[::-1] for word in words))
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _own_addresses() -> set[Address]:
    try:
        found = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        found = set()
    return {ipaddress.ip_address(str(host).split("%")[0]) for host in {*found, "127.0.0.1"}}


def _answers(address: Address, port: int) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(DEADLINE_S)
        return probe.connect_ex((str(address), port)) == 0
