import socket

import pytest

from orchestrator.errors import InputError
from serving.preflight import answers_as_serve, is_loopback, require_free_port


@pytest.fixture
def busy():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_busy_port_is_refused_with_a_free_one(busy):
    with pytest.raises(InputError, match=f"127.0.0.1:{busy} cannot be used") as caught:
        require_free_port("127.0.0.1", busy)
    suggested = int(str(caught.value).partition("--port ")[2].partition(" ")[0])
    require_free_port("127.0.0.1", suggested)


def test_a_silent_listener_is_not_a_serve_proxy(busy, monkeypatch):
    monkeypatch.setattr("serving.preflight.ANSWER_TIMEOUT_S", 0.1)
    assert not answers_as_serve("127.0.0.1", busy)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_numbers_that_are_not_ports_are_refused(port):
    with pytest.raises(InputError, match="1 to 65535"):
        require_free_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(InputError, match="not an address of this machine"):
        require_free_port("192.0.2.1", 8000)


def test_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))
