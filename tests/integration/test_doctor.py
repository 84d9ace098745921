"""A real head node answers what `doctor` asks it."""

from urllib.parse import urlsplit

import pytest

from orchestrator.doctor.exposure import SERVICES
from tests.support.ray import started_head


@pytest.mark.slow
def test_the_services_of_a_head_with_tokens_ask_for_one():
    with started_head(1) as head:
        assert head.env["RAY_AUTH_MODE"] == "token"
        for port, url in ((6379, f"//{head.address}"), (8265, head.dashboard)):
            at = urlsplit(url)
            assert SERVICES[port].asks(at.hostname, at.port) is True
