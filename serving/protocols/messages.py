"""Models of request and answer bodies, and clear errors for bodies that do not fit.

`orchestrator.config.StrictModel` is not used here: it checks conversions in Python, which costs
more per request than all of the validation, and its messages show the value. A message to a client
never repeats what was sent.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.guard.body import json_type, parse_object
from serving.guard.errors import ErrorType, ServingError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FIRST_ERROR: Final[Any] = Field(fail_fast=True)
"""Annotation of arrays in requests: a million wrong items are one problem, found at once."""
MAX_PROBLEMS: Final = 64
"""Bodies with more problems are refused without a list of them."""

_WANTED: Final = {
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""Error type of pydantic -> what was expected, in the words of the JSON standard."""


class Message(BaseModel):
    """A JSON object of a protocol; unknown fields are ignored."""

    model_config = ConfigDict(
        frozen=True, strict=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class RequestBody(Message):
    """A request body; unknown fields are refused. Give one example in ``json_schema_extra``."""

    model_config = ConfigDict(extra="forbid")


BodyT = TypeVar("BodyT", bound=RequestBody)


def read(model: type[BodyT], content: bytes, max_depth: int) -> BodyT:
    """Parse and validate a request body.

    Args:
        model: What the body must be.
        content: The whole body.
        max_depth: Deepest nesting of arrays and objects allowed.

    Raises:
        ServingError: The body is not a JSON object, or not this one; all problems are listed.
    """
    value = parse_object(content, max_depth)
    if len(value) > len(model.model_fields) + MAX_PROBLEMS:
        raise ServingError(ErrorType.VALIDATION, _unknown(model, value.keys()))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ServingError(ErrorType.VALIDATION, _message(model, value, error)) from None


def _unknown(model: type[RequestBody], names: Iterable[object]) -> str:
    known = {field.alias or name for name, field in model.model_fields.items()}
    count = len(set(names) - known)
    return f"{count} unknown field(s). Known: {', '.join(sorted(known))}."


def _message(model: type[RequestBody], body: dict[str, object], error: ValidationError) -> str:
    if error.error_count() > MAX_PROBLEMS:
        return f"The body has {error.error_count()} problems; see /docs for what is allowed."
    details = error.errors(include_url=False)
    unknown = [detail["loc"][-1] for detail in details if detail["type"] == "extra_forbidden"]
    problems = [_unknown(model, unknown)] if unknown else []
    return " ".join([*problems, *_problems(body, details)])


def _problems(body: dict[str, object], details: list["ErrorDetails"]) -> list[str]:
    """Return one sentence per wrong place; the arms of a union share one."""
    arms: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for detail in details:
        place, wanted = _place(body, detail), _WANTED.get(detail["type"])
        if detail["type"] == "extra_forbidden":
            continue
        if wanted is None:  # the type is right, which says more than an arm of another type
            arms.pop(place, None)
            found[place] = _sentence(place, detail)
        elif place in arms or place not in found:
            names = arms.setdefault(place, [])
            names += [] if wanted in names else [wanted]
            value = json_type(detail["input"])
            found[place] = f"`{place}` must be {' or '.join(names)}, not {value}."
    # An arm that got further into the value says more than one that refused it as a whole.
    return [
        text
        for place, text in found.items()
        if not any(other.startswith((f"{place}[", f"{place}.")) for other in found)
    ]


def _sentence(place: str, detail: "ErrorDetails") -> str:
    if detail["type"] == "missing":
        return f"The field `{place}` is missing."
    limits = detail.get("ctx", {})
    if detail["type"] == "too_long":
        most, actual = limits["max_length"], limits["actual_length"]
        return f"`{place}` must have at most {most} items, not {actual}."
    if detail["type"] == "too_short":
        least, actual = limits["min_length"], limits["actual_length"]
        return f"`{place}` must have at least {least} items, not {actual}."
    text = detail["msg"].replace("Input should be", "must be")
    return f"`{place}` {text[0].lower()}{text[1:]}."


def _place(body: dict[str, object], detail: "ErrorDetails") -> str:
    """Return a path like ``inputs[0].data``: pydantic's without its names of union arms."""
    value: object = body
    place = ""
    for part in detail["loc"]:
        if isinstance(value, list) and isinstance(part, int):
            value, place = value[part], f"{place}[{part}]"
        elif isinstance(value, dict) and (part in value or detail["type"] == "missing"):
            value, place = value.get(part), f"{place}.{part}" if place else str(part)
    return place
