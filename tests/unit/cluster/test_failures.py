"""An error crosses processes as data and comes back as the same kind of error."""

import pytest

from orchestrator.cluster.failures import Failure, describe, rebuild
from orchestrator.errors import (
    ConfigError,
    InputError,
    IntegrityError,
    InterruptedRunError,
    Problem,
    StageError,
)


def _crossed(failure):
    return Failure.model_validate_json(failure.model_dump_json())


@pytest.mark.parametrize("kind", [StageError, InputError, InterruptedRunError, IntegrityError])
def test_our_errors_keep_class_and_message(kind):
    data = _crossed(describe(kind("what happened")))
    again = rebuild(data, "run")
    assert type(again) is kind
    assert str(again) == "what happened"


def test_config_errors_keep_their_problems():
    error = ConfigError("job.yaml", [Problem("a.b", "is wrong"), Problem("", "and more")])
    again = rebuild(_crossed(describe(error)), "run")
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
    failure = Failure(error="Sequence", message="m", traceback="")
    assert type(rebuild(failure, "run")) is StageError
