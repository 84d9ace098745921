"""Loading: YAML file, then overrides, then validation; every problem in one error."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from orchestrator.config.messages import to_problems
from orchestrator.config.model import StrictModel, collect_problems
from orchestrator.config.overrides import apply_overrides
from orchestrator.config.partial import partial_problems
from orchestrator.config.yaml_files import dump_mapping, parse_yaml, read_text
from orchestrator.errors import ConfigError, Problem

ModelT = TypeVar("ModelT", bound=StrictModel)

COMMAND_LINE = "command line"
"""Name in messages for a config without a file."""


def load_config(
    cls: type[ModelT], path: str | Path | None, overrides: Sequence[str] = ()
) -> ModelT:
    """Load and validate a config: defaults, then the file, then the overrides.

    Args:
        cls: The config class.
        path: A YAML file; None starts from the defaults.
        overrides: Texts ``a.b=c``; later ones win.

    Raises:
        ConfigError: Listing every problem with its path, value, what is allowed and the nearest
            name.
    """
    if path is None:
        return validate_config(cls, {}, COMMAND_LINE, overrides)
    source = str(path)
    data, problems = parse_yaml(read_text(Path(path)), source)
    if data is None:
        data = {}
        if not overrides:
            problems = [Problem("", f"the file is empty. {_required(cls)}")]
            raise ConfigError(source, problems)
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else f"one value ({data!r})"
        message = f"must hold keys and values at the top, but is {kind}. {_required(cls)}"
        raise ConfigError(source, [Problem("", message)])
    return validate_config(cls, data, source, overrides, problems)


def validate_config(
    cls: type[ModelT],
    data: Mapping[str, Any],
    source: str,
    overrides: Sequence[str] = (),
    known: Sequence[Problem] = (),
) -> ModelT:
    """Validate plain data the way a file is: the same messages, all at once.

    Args:
        cls: The config class.
        data: Keys and values, as parsed from YAML or JSON; not changed.
        source: What the messages call it.
        overrides: Applied to a copy of ``data`` first.
        known: Problems found before, reported with the others.

    Raises:
        ConfigError: Listing every problem.
    """
    filled = _copy(data)
    problems = [*known, *apply_overrides(filled, overrides, default_tree(cls))]
    filled = _with_defaults(cls, filled)
    try:
        config = cls.model_validate(filled)
    except ValidationError as error:
        found = to_problems(cls, error)
        reported = {problem.path for problem in found}
        more = [p for p in partial_problems(cls, filled) if p.path not in reported]
        raise ConfigError(source, [*problems, *found, *more]) from error
    problems += collect_problems(config)
    if problems:
        raise ConfigError(source, problems)
    return config


def dump_yaml(model: StrictModel) -> str:
    """Return a config as YAML; loading it again gives an equal object. Secrets are masked."""
    return dump_mapping(model.model_dump(mode="json", by_alias=True))


def json_schema(cls: type[StrictModel]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a config class."""
    schema = cls.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def default_tree(cls: type[StrictModel]) -> dict[str, Any]:
    """Return the default of every field that has one, as plain data."""
    tree: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if default is not PydanticUndefined:
            tree[field.alias or name] = _dump(default)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, StrictModel):
            tree[field.alias or name] = default_tree(field.annotation)
    return tree


def _dump(value: Any) -> Any:
    if isinstance(value, StrictModel):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, list | tuple):
        return [_dump(item) for item in value]
    return value


def _with_defaults(cls: type[StrictModel], data: dict[str, Any]) -> dict[str, Any]:
    """Put a section's own default values under the keys a file gives of it.

    ``train: TrainConfig = TrainConfig(max_steps=50)`` keeps its 50 steps when a file sets another
    key of ``train``; without this the class default would silently come back.
    """
    merged = dict(data)
    for name, field in cls.model_fields.items():
        given = merged.get(name)
        if not isinstance(given, dict):
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, StrictModel):
            merged[name] = _merge(_dump(default), given)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, StrictModel):
            merged[name] = _with_defaults(field.annotation, given)
    return merged


def _merge(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Lay ``given`` over ``default``; another ``type`` is another component and keeps nothing."""
    if given.get("type", default.get("type")) != default.get("type"):
        return given
    merged = dict(default)
    for key, value in given.items():
        under = default.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            merged[key] = _merge(under, value)
        else:
            merged[key] = value
    return merged


def _required(cls: type[StrictModel]) -> str:
    names = [name for name, field in cls.model_fields.items() if field.is_required()]
    return f"Required: {', '.join(names)}." if names else "Every key has a default."


def _copy(value: Any) -> Any:
    """Copy mappings and lists, so that overrides never change the caller's data."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value
