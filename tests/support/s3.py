"""An S3 server in a process of its own, and a relay before it that fails on demand."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
BUCKET = "runs-bucket"
START_DEADLINE_S = 60


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def s3_server():
    """Start moto's server in a process of its own; yields its port."""
    pytest.importorskip("moto.server", reason="needs moto[server] for a local S3 server")
    pytest.importorskip("s3fs", reason="needs s3fs")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            assert server.poll() is None, "the S3 server ended"
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait(10)


@contextmanager
def settings(port):
    """Point this process, and those that it starts, to a server, and make the bucket."""
    import s3fs

    chosen = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    before = {key: os.environ.get(key) for key in chosen}
    os.environ.update(chosen)
    s3fs.S3FileSystem.clear_instance_cache()
    with suppress(FileExistsError):
        s3fs.S3FileSystem().mkdir(BUCKET)
    try:
        yield f"s3://{BUCKET}"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


class Relay:
    """Passes connections on to a server; `fault` says what happens to them.

    Faults: ``None`` passes; ``refuse`` closes connections at once, also those that are open;
    ``(code, text)`` answers every request with that HTTP error; a number is the limit in bytes per
    second.
    """

    def __init__(self, port):
        self.target, self.fault = port, None
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def set(self, fault):
        self.fault = fault
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open = []

    def _serve(self, client):
        with client, suppress(OSError):
            self.requests += 1
            if self.fault == "refuse":
                return
            if isinstance(self.fault, tuple):
                self._answer(client, *self.fault)
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                self._open += [client, server]
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server)
                back.join()

    def _answer(self, client, code, name):
        client.settimeout(5)
        client.recv(65536)
        body = f"<Error><Code>{name}</Code><Message>{name}</Message></Error>".encode()
        head = f"HTTP/1.1 {code} {name}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def _pump(self, source, target):
        with suppress(OSError):
            while data := source.recv(16384):
                if isinstance(self.fault, int | float):
                    time.sleep(len(data) / self.fault)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self):
        self._listener.close()
        self.set(None)
