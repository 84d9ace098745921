"""Readable validation errors: the value, what is allowed, the nearest name."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

from orchestrator.config.descriptions import descriptions
from orchestrator.config.locate import Location, Place, locate
from orchestrator.config.strict import Misfit, show
from orchestrator.errors import Problem

Context = Mapping[str, Any]

_SHAPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a section (a mapping of keys to values)",
    "model_attributes_type": "a section (a mapping of keys to values)",
    "none_required": "null",
    "path_type": "a path",
    "finite_number": "a finite number",
}
"""Expected kind of value, for the errors that say no more than that."""

_LIMITS: dict[str, Callable[[Context], str]] = {
    "greater_than": lambda c: f"must be greater than {c['gt']}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']}",
    "less_than": lambda c: f"must be less than {c['lt']}",
    "less_than_equal": lambda c: f"must be at most {c['le']}",
    "multiple_of": lambda c: f"must be a multiple of {c['multiple_of']}",
    "string_too_short": lambda c: f"must have at least {c['min_length']} characters",
    "string_too_long": lambda c: f"must have at most {c['max_length']} characters",
    "string_pattern_mismatch": lambda c: f"must match {c['pattern']}",
    "too_short": lambda c: f"must have at least {c['min_length']} items",
    "too_long": lambda c: f"must have at most {c['max_length']} items",
}
"""Bounds, each with its figure."""

_TEXT_AS_IS = ("value_error", "assertion_error")
_PYDANTIC_TYPES = frozenset(get_args(ErrorType))


MAX_LISTED = 24
"""A message lists at most this many allowed names."""
SIMILARITY = 0.6
"""Ratio of `difflib.SequenceMatcher` from which two words count as near."""


def to_problems(model: type[BaseModel], error: ValidationError) -> list[Problem]:
    """Translate every error of a failed validation, one problem per place.

    Args:
        model: The class that was validated.
        error: What pydantic raised.

    Returns:
        Problems in the order of the fields. The arms of a union that failed at one place are
        joined with "or"; arms the value was plainly not meant for are left out.
    """
    found: dict[Location, list[tuple[str, str]]] = {}
    for item in error.errors(include_url=False):
        place = locate(model, item["loc"])
        path, text = _describe(place, item["type"], item["msg"], item["input"], item.get("ctx", {}))
        found.setdefault(path, []).append((item["type"], text))
    return [
        Problem(".".join(map(str, path)), _merge(texts))
        for path, texts in found.items()
        if not _only_wrong_shape(texts) or not _any_below(path, found)
    ]


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to ``word``, or None when nothing is near."""
    names = {name.lower(): name for name in allowed}
    found = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=SIMILARITY)
    return names[found[0]] if found else None


def listing(allowed: Iterable[str]) -> str:
    """Return the allowed names joined by commas, cut after `MAX_LISTED` of them."""
    names = list(allowed)
    shown = ", ".join(names[:MAX_LISTED])
    return f"{shown}, … ({len(names)} in all)" if len(names) > MAX_LISTED else shown


def did_you_mean(word: str, allowed: Iterable[str], label: str = "Allowed") -> str:
    """Return the sentences that help after an unknown name: the nearest name and what is allowed.

    Args:
        word: What was written.
        allowed: The names that exist.
        label: What the list is called in the message.

    Returns:
        For example ``Did you mean 'transformer'? Allowed: gru, lstm, transformer.``; empty when
        nothing is allowed.
    """
    names = list(allowed)
    near = nearest(word, names)
    guess = f"Did you mean {near!r}? " if near is not None else ""
    return f"{guess}{label}: {listing(names)}." if names else guess.strip()


def _only_wrong_shape(texts: list[tuple[str, str]]) -> bool:
    return all(kind in _SHAPES for kind, _ in texts)


def _any_below(path: Location, found: Mapping[Location, Any]) -> bool:
    """Return whether another arm of a union read further into the value than its shape."""
    return any(len(other) > len(path) and other[: len(path)] == path for other in found)


def _merge(texts: list[tuple[str, str]]) -> str:
    """Join what the arms of a union wanted; a reason is worth more than a wrong shape."""
    reasons = list(dict.fromkeys(text for kind, text in texts if kind not in _SHAPES))
    if reasons:
        return " Or: ".join(reasons)
    shapes = list(dict.fromkeys(_SHAPES[kind] for kind, _ in texts))
    return texts[0][1].replace(_SHAPES[texts[0][0]], " or ".join(shapes))


def _describe(
    place: Place, kind: str, message: str, value: Any, context: Context
) -> tuple[Location, str]:
    """Return the path a problem is reported under, and its text."""
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _tag_problem(place, kind, context)
    if kind == "missing":
        return place.path, f"is required.{_meaning(place)}"
    if kind == "extra_forbidden":
        return place.path, _unknown_key(place)
    if kind in _TEXT_AS_IS:
        return place.path, str(context.get("error", message))
    if kind not in _PYDANTIC_TYPES:  # raised with its own text by a validator
        return place.path, message
    shown = "the value" if place.secret else show(value)
    return place.path, f"{shown} {_complaint(kind, message, value, context)}"


def _complaint(kind: str, message: str, value: Any, context: Context) -> str:
    """Return what is wrong with a value, to be read after it."""
    if kind in ("literal_error", "enum"):
        return f"is not allowed. {_choices(value, context)}"
    if kind in _SHAPES:
        quotes = " Put it in quotes." if kind == "string_type" and _is_word(value) else ""
        return f"is not {_SHAPES[kind]}.{quotes}"
    if kind in _LIMITS:
        return f"is not allowed: {_LIMITS[kind](context)}."
    return f"is not allowed: {message}."


def _is_word(value: Any) -> bool:
    """Return whether YAML read a number or a truth value that was meant as text."""
    value = value.value if isinstance(value, Misfit) else value
    return isinstance(value, bool | int | float)


def _meaning(place: Place) -> str:
    """Return the description of a field, as a sentence after its name."""
    text = descriptions(place.owner).get(str(place.path[-1]), "") if place.owner else ""
    return f" {text.strip().splitlines()[0].rstrip('.')}." if text.strip() else ""


def _unknown_key(place: Place) -> str:
    key = str(place.path[-1])
    known = list(place.owner.model_fields) if place.owner else []
    return f"{key!r} is not a known key. {did_you_mean(key, known, 'Known keys')}".strip()


def _tag_problem(place: Place, kind: str, context: Context) -> tuple[Location, str]:
    """Describe a component that is not registered, or has no name."""
    key = str(context["discriminator"]).strip("'")
    path = (*place.path, key)
    allowed = _quoted(context.get("expected_tags", ""))
    words = [str(part) for part in place.path if isinstance(part, str)]
    noun = words[-1].replace("_", " ") if words else "type"
    if kind == "union_tag_not_found":
        return path, f"is required: it says which {noun} this is."
    tag = str(context["tag"])
    return path, f"{tag!r} is not a registered {noun}. {did_you_mean(tag, allowed)}"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'((?:[^'\\]|\\.)*)'", text)


def _choices(value: Any, context: Context) -> str:
    """Return the sentences on what a closed choice allows, the nearest name first."""
    expected = str(context["expected"])
    near = nearest(str(value), _quoted(expected))
    guess = f"Did you mean {near!r}? " if near is not None else ""
    return f"{guess}Allowed: {expected}."
