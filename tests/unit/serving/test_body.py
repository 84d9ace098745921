import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.guard.body import check_depth, parse_object
from serving.guard.errors import ErrorType, ServingError

DEPTH = 8


def refused(body: bytes) -> ErrorType:
    with pytest.raises(ServingError) as caught:
        parse_object(body, DEPTH)
    return caught.value.error_type


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def depth_of(value) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(st.dictionaries(st.text(), json_values, max_size=4))
@settings(max_examples=150, deadline=None)
def test_what_json_writes_is_read_back_or_refused_for_its_depth_alone(value):
    body = json.dumps(value).encode()
    if depth_of(value) <= DEPTH:
        assert parse_object(body, DEPTH) == value
    else:
        assert refused(body) is ErrorType.MALFORMED


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_parsed_or_refused_never_a_crash(body):
    with contextlib.suppress(ServingError):
        assert isinstance(parse_object(body, DEPTH), dict)


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"null", b'"text"', b"7", b"{}x", b'{"a": 1,}', b"{'a': 1}",
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}', b'{"x": {"a": 1, "a": 1}}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe{}", '{"a": 1}'.encode("utf-16"), b'{"a": "\xc3\x28"}', b'{"a": "\x00"}',
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"[" * 9 + b"]" * 9 + b"}",
    ],
)  # fmt: skip
def test_bodies_other_than_plain_json_objects_are_malformed(body):
    assert refused(body) is ErrorType.MALFORMED


def test_an_empty_body_is_called_empty():
    assert refused(b"") is ErrorType.EMPTY


def test_brackets_inside_strings_do_not_count():
    text = '[[[[{{{{ \\" ]] \\\\'
    body = json.dumps({"inputs": text * 50}).encode()
    assert parse_object(body, 2) == {"inputs": text * 50}


@pytest.mark.parametrize(
    "hostile",
    [
        b'\\"' * 400_000,
        b'"' + b"\\" * 800_001,
        b'"\\' * 400_000,
        b'["' + b"a" * 800_000,
        b"[]" * 400_000,
    ],
    ids=["escaped quotes", "backslashes", "quote backslash", "unterminated", "flat arrays"],
)  # fmt: skip
def test_the_depth_scan_is_linear(hostile):
    """Quadratic time on 800 kB would run into the time limit of the test session."""
    check_depth(b"[[[[" + hostile, max_depth=10)


def test_messages_never_repeat_what_was_sent():
    secret = "s3cr3t-payload"
    for body in (f'{{"{secret}": NaN}}', f'{{"{secret}": 1, "{secret}": 2}}', f"{secret}"):
        with pytest.raises(ServingError) as caught:
            parse_object(body.encode(), DEPTH)
        assert secret not in caught.value.message
