"""An error crosses processes as data and comes back as the same kind of error."""

import json

import pytest

from orchestrator.cluster.failures import describe, rebuild
from orchestrator.errors import (
    ConfigError,
    InputError,
    IntegrityError,
    InterruptedRunError,
    Problem,
    StageError,
)


@pytest.mark.parametrize("kind", [StageError, InputError, InterruptedRunError, IntegrityError])
def test_our_errors_keep_class_and_message(kind):
    data = json.loads(json.dumps(describe(kind("what happened"))))
    again = rebuild(data, "run")
    assert type(again) is kind
    assert str(again) == "what happened"


def test_config_errors_keep_their_problems():
    error = ConfigError("job.yaml", [Problem("a.b", "is wrong"), Problem("", "and more")])
    again = rebuild(json.loads(json.dumps(describe(error))), "run")
    assert isinstance(again, ConfigError)
    assert again.problems == error.problems
    assert str(again) == str(error)


def test_other_errors_say_what_and_where():
    def inner():
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ZeroDivisionError) as caught:
        inner()
    again = rebuild(describe(caught.value), "my-run")
    assert type(again) is StageError
    assert "my-run: a worker failed with ZeroDivisionError: by nothing" in str(again)
    assert "in inner" in str(again)


def test_a_name_from_outside_is_never_called():
    failure = {"error": "Sequence", "message": "m", "traceback": ""}
    assert type(rebuild(failure, "run")) is StageError
