"""`a.b=c` overrides: the last word of a config, given on the command line."""

from collections.abc import Sequence
from typing import Any

from orchestrator.config.strict import show
from orchestrator.config.yaml_files import parse_yaml
from orchestrator.errors import ConfigError, Problem

SYNTAX = "Write section.key=value, for example train.max_steps=100 or target.0.type=mlm."


class _OverrideError(ValueError):
    """The override cannot be applied; the text says why."""


def apply_overrides(
    data: dict[str, Any], overrides: Sequence[str], defaults: dict[str, Any]
) -> list[Problem]:
    """Set each override in ``data``, in order.

    Args:
        data: The parsed file; changed in place. Lists are indexed by ``a.0.b``; the index one past
            the end appends. Missing sections, and null ones, become mappings.
        overrides: Texts of the form ``a.b=c``; the value is read as YAML.
        defaults: Default values of the config, so that ``a.0.b`` reaches into a default list.

    Returns:
        One problem for each override that could not be applied.
    """
    found = []
    for text in overrides:
        try:
            keys, value = parse_override(text)
            _set(data, keys, value, defaults)
        except _OverrideError as error:
            found.append(Problem(text, str(error)))
    return found


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split ``a.b=c`` into its keys and its value.

    Raises:
        ValueError: No ``=``, no key, an empty part of the key, or no value; the text says which.
    """
    key, equals, raw = text.partition("=")
    keys = key.strip().split(".")
    if not equals:
        raise _OverrideError(f"has no '='. {SYNTAX}")
    if not all(part and part == part.strip() for part in keys):
        raise _OverrideError(f"the key {key!r} has an empty part. {SYNTAX}")
    if not raw.strip():
        raise _OverrideError(
            f"has no value. Write {key}=null for none or {key}='\"\"' for no text."
        )
    try:
        value, duplicates = parse_yaml(raw, text)
    except ConfigError as error:
        raise _OverrideError(f"the value is {error.problems[0].message}") from error
    if duplicates:
        raise _OverrideError(f"in the value, {duplicates[0].path}: {duplicates[0].message}")
    return keys, value


def _set(data: dict[str, Any], keys: list[str], value: Any, defaults: Any) -> None:
    """Walk to the last container, creating what is missing, and set the value."""
    here: Any = data
    for depth, key in enumerate(keys):
        default = _get(defaults, key)
        last = depth == len(keys) - 1
        index: Any = key
        if isinstance(here, list):
            index = _index(here, key, ".".join(keys[:depth]))
            if index == len(here):
                here.append(None)
        elif not isinstance(here, dict):
            path = ".".join(keys[:depth])
            raise _OverrideError(f"{path} is {show(here)}, which has no key {key!r}.")
        if last:
            here[index] = value
            return
        child = here[index] if isinstance(here, list) else here.get(index)
        if child is None:
            child = _container(keys[depth + 1], default)
            here[index] = child
        here, defaults = child, default


def _get(defaults: Any, key: str) -> Any:
    if isinstance(defaults, dict):
        return defaults.get(key)
    if isinstance(defaults, list) and key.isdecimal() and int(key) < len(defaults):
        return defaults[int(key)]
    return None


def _container(next_key: str, default: Any) -> Any:
    """Return what stands for a missing section: the default list, a new list, or a mapping."""
    if isinstance(default, list):
        return [dict(item) if isinstance(item, dict) else item for item in default]
    return [] if next_key == "0" and not isinstance(default, dict) else {}


def _index(items: list[Any], key: str, path: str) -> int:
    if key.isdecimal() and int(key) <= len(items):
        return int(key)
    allowed = f"0 to {len(items)}" if items else "0"
    raise _OverrideError(
        f"{path} is a list of {len(items)}: {key!r} is not an index of it (allowed: {allowed})."
    )
