"""Request bytes to a JSON object: UTF-8, bounded depth, no NaN, no key twice.

The parser of pydantic accepts NaN and a key twice, so bodies are parsed here and validated there.
"""

import json
import re
from typing import Any, Final, NoReturn

import numpy as np

from serving.guard.errors import ErrorType, ServingError

# One left-to-right pass: an unterminated string or a lone backslash at the end is consumed too, so
# a hostile body cannot make the scan start over from each quote (quadratic time).
_STRING: Final = re.compile(rb'"(?:\\.?|[^"\\])*+"?', re.DOTALL)
_OPENING: Final = (ord("["), ord("{"))
_CLOSING: Final = (ord("]"), ord("}"))


def parse_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        body: The whole request body.
        max_depth: Deepest nesting of arrays and objects allowed.

    Raises:
        ServingError: The body is empty, not UTF-8, not JSON, nested too deeply, has a key twice, a
            number JSON does not know or half of a surrogate pair, or is not an object.
    """
    if not body:
        raise ServingError(ErrorType.EMPTY, "The body is empty; send a JSON object.")
    check_depth(body, max_depth)
    try:
        value = json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique
        )
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8 (byte {error.start})."
        raise ServingError(ErrorType.MALFORMED, message) from error
    except json.JSONDecodeError as error:
        message = f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise ServingError(ErrorType.MALFORMED, message) from error
    except (ValueError, RecursionError) as error:  # an integer of more than 4300 digits
        message = "The body has a number that is too long."
        raise ServingError(ErrorType.MALFORMED, message) from error
    if not isinstance(value, dict):
        message = f"The body must be a JSON object, not {json_type(value)}."
        raise ServingError(ErrorType.MALFORMED, message)
    if b"\\" in body and b"\\ud" in body.lower():  # most bodies escape nothing
        _refuse_half_pairs(value)
    return value


def check_depth(body: bytes, max_depth: int) -> None:
    """Refuse nesting deeper than ``max_depth`` without parsing.

    Raises:
        ServingError: Arrays and objects are nested deeper.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    structure = np.frombuffer(_STRING.sub(b"", body), dtype=np.uint8)
    steps = np.isin(structure, _OPENING).astype(np.int32) - np.isin(structure, _CLOSING)
    if steps.cumsum().max(initial=0) > max_depth:
        message = f"The body is nested more than {max_depth} levels deep."
        raise ServingError(ErrorType.MALFORMED, message)


def json_type(value: object) -> str:
    """Name of a parsed value's type as the JSON standard calls it."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    raise ServingError(ErrorType.MALFORMED, f"{name} is not a JSON number.")


def _refuse_half_pairs(value: object) -> None:
    r"""Refuse text like ``"\ud800"``, which JSON can escape but no encoding can write."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = "A text has half of a surrogate pair (\\ud800 to \\udfff); send whole characters."
        raise ServingError(ErrorType.VALIDATION, message) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ServingError(ErrorType.MALFORMED, "An object of the body has the same key twice.")
    return result
