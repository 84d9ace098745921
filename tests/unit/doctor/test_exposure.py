"""What `doctor` says of services on loopback and public addresses, with and without a token."""

import ipaddress
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from orchestrator.cli import main
from orchestrator.doctor import cli, exposure
from orchestrator.doctor.exposure import SERVICES, examine_ports, listeners
from orchestrator.doctor.findings import FAILURE, OK

DASHBOARD, GCS, SERVE = SERVICES[8265], SERVICES[6379], SERVICES[8000]


class V6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def answering(status, host="0.0.0.0"):
    """An HTTP server that answers everything with one status; yields its port and its requests."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.command, self.path))
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            """Nothing on the terminal."""

    server = (V6 if ":" in host else ThreadingHTTPServer)((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def calling(code):
    """A gRPC server that ends every call with one status; yields its port."""

    class All(grpc.GenericRpcHandler):
        def service(self, details):
            def answer(_request, context):
                if code is not grpc.StatusCode.OK:
                    context.abort(code, "as planned")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[All()])
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(5)


def judged(service, port):
    (found,) = examine_ports({port: service})
    return found.state, found.detail


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_public_service_is_judged_by_its_answer_and_not_by_this_shell(monkeypatch, mode):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with answering(200) as (port, seen):
        state, detail = judged(DASHBOARD, port)
        assert state == FAILURE
        assert "0.0.0.0 and asks for no token: anyone who reaches it can run code" in detail
        assert seen == [("GET", "/api/jobs/")]
    with answering(401) as (port, _):
        state, detail = judged(DASHBOARD, port)
        assert (state, detail) == (
            OK,
            "dashboard and jobs listens on 0.0.0.0 and asks for a token",
        )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_service_on_loopback_is_fine(host):
    with answering(200, host) as (port, seen):
        assert judged(DASHBOARD, port) == (
            OK,
            f"dashboard and jobs: in use, on {host} only: other machines do not reach it",
        )
    assert not seen


def test_a_service_on_all_addresses_of_ipv6_is_public():
    with answering(200, "::") as (port, _):
        state, detail = judged(DASHBOARD, port)
    assert state == FAILURE
    assert "listens on ::" in detail


def test_serving_without_keys_on_a_public_address_is_a_failure():
    with answering(422) as (port, seen):
        state, detail = judged(SERVE, port)
        assert state == FAILURE
        assert "set api_keys_file" in detail
        assert seen == [("POST", "/predict")]
    with answering(401) as (port, _):
        assert judged(SERVE, port)[0] == OK


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, OK),
        (grpc.StatusCode.OK, FAILURE),
        (grpc.StatusCode.NOT_FOUND, FAILURE),
    ],
)
def test_grpc_services_are_asked_as_well(code, state):
    with calling(code) as port:
        assert judged(GCS, port)[0] == state


def test_what_gives_no_answer_is_not_taken_for_safe(monkeypatch):
    monkeypatch.setattr(exposure, "DEADLINE_S", 0.3)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        port = silent.getsockname()[1]
        for service in (GCS, DASHBOARD):
            state, detail = judged(service, port)
            assert state == FAILURE
            assert "gives no answer about tokens" in detail
    assert judged(GCS, port) == (OK, "GCS: free")


def test_one_public_address_among_several_counts(monkeypatch):
    found = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "192.0.2.7")))
    monkeypatch.setattr(exposure, "listeners", lambda port: found)
    asked = []
    service = replace(DASHBOARD, asks=lambda host, port: asked.append((host, port)))
    state, detail = judged(service, 8265)
    assert state == FAILURE
    assert "127.0.0.1, 192.0.2.7" in detail
    assert asked == [("192.0.2.7", 8265)]


def test_without_the_tables_of_the_kernel_own_addresses_are_tried(monkeypatch):
    with answering(200, "127.0.0.1") as (port, _):
        expected = listeners(port)
        monkeypatch.setattr(exposure, "TCP_TABLES", ())
        assert listeners(port) == expected == {ipaddress.ip_address("127.0.0.1")}
    assert listeners(port) == frozenset()


def test_the_command_fails_for_an_open_service(monkeypatch, capsys, tmp_path):
    with answering(200) as (port, _):
        services = {port: DASHBOARD}
        monkeypatch.setattr(cli, "examine_ports", lambda: examine_ports(services))
        monkeypatch.setattr(cli, "TOKEN_FILE", tmp_path / "token")
        assert main(["doctor", "--zoo", str(tmp_path)]) == 1
    assert f"port {port}" in capsys.readouterr().out
