"""The builder as `serve run` and `serve deploy` call it, through the function they call it with."""

import sys

import click
import pytest
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call_builder

from orchestrator.errors import ConfigError, InputError
from serving.app import build


@pytest.fixture
def zoo(package):
    return str(package.path.parent.parent)


def bound(application):
    """The deployment of an application, and what its replicas will be made with."""
    deployment = application._bound_deployment
    return deployment, deployment.init_args[0]


def test_flat_texts_make_a_pinned_deployment_with_autoscaling(zoo):
    arguments = {"model": "tiny", "zoo": zoo, "limits.max_body_bytes": "1000"}
    deployment, fixed = bound(call_builder(build, arguments))
    assert fixed["model"] == "tiny/v0001"
    options = deployment._deployment_config
    assert options.autoscaling_config.max_replicas == 2
    assert options.max_surge_percent == 100
    assert options.graceful_shutdown_timeout_s >= 30
    assert options.max_ongoing_requests > 512  # so that the replica refuses, in its own form
    assert options.max_queued_requests > 512  # a free slot is taken after a turn in the queue
    assert options.backpressure_config.status_code == 429
    assert options.backpressure_config.retry_after_s > 0
    assert options.user_config["limits"]["max_body_bytes"] == 1000
    assert "limits" not in fixed  # so that a change of limits replaces no replica


def test_many_replicas_are_replaced_in_waves(zoo):
    arguments = {"model": "tiny", "zoo": zoo, "autoscaling": {"max_replicas": 8}}
    deployment, _ = bound(call_builder(build, arguments))
    assert deployment._deployment_config.max_surge_percent == 25


def test_relative_places_become_absolute(zoo, monkeypatch):
    monkeypatch.chdir(zoo)
    _, fixed = bound(call_builder(build, {"model": "tiny", "zoo": "."}))
    assert fixed["zoo"] == zoo


WRONG = [
    ({"model": "tinny"}, InputError, "tiny"),
    ({"model": "tiny@champoin"}, InputError, "latest"),
    ({"modle": "tiny"}, ConfigError, "'model'"),
    ({"model": "tiny", "limits.max_body_byte": "1"}, ConfigError, "max_body_bytes"),
    ({"model": "tiny", "autoscaling.min_replicas": "9"}, ConfigError, "max_replicas"),
    ({"model": "tiny", "api_keys_file": "no-such-file"}, InputError, "no-such-file"),
]


@pytest.mark.parametrize(("arguments", "kind", "expected"), WRONG)
def test_wrong_arguments_are_our_errors(zoo, arguments, kind, expected):
    with pytest.raises(kind, match=expected):
        call_builder(build, {"zoo": zoo, **arguments})


@pytest.mark.parametrize(("arguments", "kind", "expected"), WRONG)
def test_the_serve_command_prints_them_as_one_message(zoo, arguments, kind, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["serve", "run", "serving.app:build"])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")  # elsewhere: the port here does not matter
    with pytest.raises(click.ClickException, match=expected) as caught:
        call_builder(build, {"zoo": zoo, **arguments})
    assert caught.value.exit_code == 2
