"""Reading fields of a request body, each wrong one named with its type."""

from collections.abc import Iterable
from typing import Any

from serving.body import json_type
from serving.errors import ErrorType, ServingError


def only(body: dict[str, Any], allowed: Iterable[str]) -> None:
    """Refuse fields nobody would read.

    Raises:
        ServingError: the body has other fields; their number, not their text, is told.
    """
    names = sorted(allowed)
    unknown = len(set(body) - set(names))
    if unknown:
        message = f"{unknown} unknown field(s). Known: {', '.join(names)}."
        raise ServingError(ErrorType.VALIDATION, message)


def required(body: dict[str, Any], name: str) -> Any:
    """Return a field that must be there.

    Raises:
        ServingError: it is not.
    """
    if name not in body:
        raise ServingError(ErrorType.VALIDATION, f"The field `{name}` is missing.")
    return body[name]


def boolean(body: dict[str, Any], name: str, *, default: bool) -> bool:
    """Return an optional truth value.

    Raises:
        ServingError: it is something else.
    """
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise wrong(name, "true or false", value)
    return value


def text(body: dict[str, Any], name: str) -> str | None:
    """Return an optional text; null counts as absent.

    Raises:
        ServingError: it is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(name, "a string", value)
    return value


def strings(value: Any, name: str) -> list[str]:
    """Return a text or a list of texts as a list.

    Raises:
        ServingError: it is something else.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong(name, "a string or an array of strings", value)
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise wrong(f"{name}[{index}]", "a string", item)
    return value


def wrong(name: str, wanted: str, value: Any) -> ServingError:
    """Make the error for a field of another type."""
    return ServingError(ErrorType.VALIDATION, f"`{name}` must be {wanted}, not {json_type(value)}.")
