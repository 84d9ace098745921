"""The ingress: HAProxy on the loopback address, with our errors, ended with who started it."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.errors import InputError
from serving import haproxy
from serving.ingress import ENABLE, chosen, haproxy_binary, ingress_environment, variables

CONFIG = """global
    maxconn 10
defaults
    mode http
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend prometheus
    bind :{metrics}
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend http_frontend
    bind 127.0.0.1:{http}
    default_backend nobody
backend nobody
listen stats
  bind *:{stats}
  stats enable
"""


def written(tmp_path):
    """A config with free ports, in the form of Ray's."""
    from serving.ingress import _free_ports

    metrics, http, stats = _free_ports(3)
    path = tmp_path / "haproxy.cfg"
    path.write_text(CONFIG.format(folder=tmp_path, metrics=metrics, http=http, stats=stats))
    return path, http


def test_rays_own_template_has_what_is_changed(tmp_path):
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    config = haproxy.adapted(HAPROXY_CONFIG_TEMPLATE, tmp_path)
    binds = re.findall(r"(?m)^\s*bind (.*?):", config)
    assert binds[0] == binds[-1] == "127.0.0.1"  # metrics and statistics
    others = ["{{ config.frontend_host }}", "{{ config.grpc_frontend_host }}"]
    assert binds[1:-1] == others  # what clients reach: as the host of the service says
    assert "timeout http-request 10s" in config.split("frontend")[0]
    assert "config.error_file_path }}\n    errorfile" not in config


def test_it_ends_with_the_process_that_started_it(tmp_path):
    path, http = written(tmp_path)
    script = variables(tmp_path)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=1);"
    )
    command = [sys.executable, "-c", f"{code} time.sleep(60)", script, "-db", "-f", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        try:
            answer = wait_for(lambda: first_answer(http))
            assert answer.startswith("HTTP/1.1 503 ")
            assert '"error_type": "unhealthy"' in answer
            assert os.readlink(f"/proc/{pid}/exe") == str(haproxy_binary().resolve())
        finally:
            parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}/exe") or is_zombie(pid))


def wait_for(condition):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("not within 20 s")


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def first_answer(port):
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(4096).decode()
    except OSError:
        return ""


def test_haproxy_is_the_default_where_it_runs(monkeypatch, tmp_path):
    monkeypatch.delenv(ENABLE, raising=False)
    assert chosen(None) == chosen("haproxy") == "haproxy"
    assert chosen("python") == "python"
    broken = tmp_path / "haproxy"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(broken))
    assert chosen(None) == "python"
    with pytest.raises(InputError, match="Use ingress python"):
        chosen("haproxy")


def test_the_environment_is_set_for_a_while(monkeypatch):
    monkeypatch.setenv(ENABLE, "before")
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    with ingress_environment("haproxy"):
        assert os.environ[ENABLE] == "1"
        script = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
        assert os.access(script, os.X_OK)
        longest = os.environ["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"]
        assert len(longest) + 57 <= 107  # Ray puts the identity of a node between
    assert os.environ[ENABLE] == "before"
    assert not os.path.exists(script)
    with ingress_environment("python"):
        assert os.environ[ENABLE] == "0"
