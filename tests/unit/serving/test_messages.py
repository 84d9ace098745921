"""Errors for bodies that do not fit their model."""

import json
import sys

import pytest

from serving.guard.errors import ErrorType, ServingError
from serving.protocols.messages import read
from serving.protocols.native.bodies import PredictRequest
from serving.protocols.openinference.bodies import InferRequest


def refused(model, body) -> str:
    with pytest.raises(ServingError) as caught:
        read(model, json.dumps(body).encode(), 32)
    assert caught.value.error_type is ErrorType.VALIDATION
    return caught.value.message


TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (PredictRequest, {}, "The field `inputs` is missing."),
        (
            PredictRequest,
            {"inputs": None},
            "`inputs` must be a string or an array or an object, not null.",
        ),
        (
            PredictRequest,
            {"inputs": ["a", 7]},
            "`inputs[1]` must be a string or an array or an object, not a number.",
        ),
        (
            PredictRequest,
            {"inputs": [["a", "b", "c"]]},
            "`inputs[0]` must have at most 2 items, not 3.",
        ),
        (PredictRequest, {"inputs": [[]]}, "`inputs[0]` must have at least 1 items, not 0."),
        (
            PredictRequest,
            {"inputs": [["a", 7]]},
            "`inputs[0][1]` must be a string, not a number.",
        ),
        (
            PredictRequest,
            {"inputs": [5, "a"]},
            "`inputs[1]` must be a whole number, not a string.",
        ),
        (
            InferRequest,
            {"inputs": [TENSOR | {"shape": [-1]}]},
            "`inputs[0].shape[0]` must be greater than or equal to 0.",
        ),
        (
            InferRequest,
            {"inputs": [{}]},
            "The field `inputs[0].name` is missing. The field `inputs[0].datatype` is missing. "
            "The field `inputs[0].shape` is missing.",
        ),
    ],
)
def test_the_wrong_place_and_what_is_allowed_are_named(model, body, message):
    assert refused(model, body) == message


def test_all_problems_are_listed_at_once():
    message = refused(PredictRequest, {"inputs": 7, "truncate": "yes", "target": [], "tarjet": 1})
    assert message == (
        "1 unknown field(s). Known: inputs, parameters, raw_scores, target, truncate, "
        "truncation_direction. `truncate` must be true or false, not a string. "
        "`inputs` must be a string or an array or an object, not a number. "
        "`target` must be a string, not an array."
    )


def test_messages_never_repeat_what_was_sent():
    secret = "s3cr3t"
    for body in ({"inputs": "a", secret: secret}, {"inputs": {secret: secret}}, {"target": secret}):
        assert secret not in refused(PredictRequest, body)


@pytest.mark.parametrize(
    "body",
    [{"inputs": [True] * 400_000}, {str(number): 0 for number in range(100_000)}],
    ids=["wrong items", "unknown fields"],
)
def test_a_body_that_is_wrong_everywhere_is_refused_in_a_few_calls(body):
    """Counted in calls, not seconds: nothing is done once per wrong field or item."""
    content, calls = json.dumps(body).encode(), []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        with pytest.raises(ServingError) as caught:
            read(PredictRequest, content, 32)
    finally:
        sys.setprofile(None)
    assert len(calls) < 5_000
    assert len(caught.value.message) < 200
