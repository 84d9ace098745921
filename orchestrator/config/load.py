"""Loading: YAML file, then overrides, then validation; every problem in one error.

One report holds everything: in a config with some invalid values, the cross-field checks that read
only valid ones still run. An invalid value is replaced by `Unreadable`, which stops a check that
touches it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from orchestrator.config.locate import is_union, plain
from orchestrator.config.messages import to_problems
from orchestrator.config.overrides import apply_overrides
from orchestrator.config.registry import EntryConfig
from orchestrator.config.strict import StrictModel, collect_problems, join, sections
from orchestrator.config.yaml_files import dump_mapping, parse_yaml, read_text
from orchestrator.errors import ConfigError, Problem

ModelT = TypeVar("ModelT", bound=StrictModel)

COMMAND_LINE = "command line"
"""Name in messages for a config without a file."""


logger = logging.getLogger(__name__)


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


class UnreadableError(Exception):
    """A check touched a value that is invalid by itself and already reported."""


class Unreadable:
    """Stands for an invalid value; everything one can do with it raises `UnreadableError`."""

    __slots__ = ()

    def _stop(self, *_: Any) -> NoReturn:
        raise UnreadableError

    __getattr__ = __call__ = __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = _stop
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _stop
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __abs__ = _stop
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _stop
    __pow__ = __rpow__ = __int__ = __float__ = __index__ = __str__ = __format__ = _stop
    __hash__ = __fspath__ = __enter__ = _stop


def partial_problems(model: type[StrictModel], data: Mapping[str, Any]) -> list[Problem]:
    """Return the cross-field problems that can be known although ``data`` does not validate."""
    return [
        Problem(join(prefix, problem.path), problem.message)
        for prefix, section in sections(_build(model, data))
        for problem in _until_unreadable(section)
    ]


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


def _until_unreadable(section: StrictModel) -> Iterator[Problem]:
    try:
        yield from section.problems()
    except (UnreadableError, TypeError) as stopped:  # TypeError: C code refused the stand-in
        logger.debug("event=check_skipped section=%s reason=%r", type(section).__name__, stopped)


def _build(model: type[StrictModel], data: Mapping[str, Any]) -> StrictModel:
    """Build a section from its valid values; the others are `Unreadable`."""
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = field.alias if field.alias and field.alias in data else name
        if key in data:
            values[name] = _value(Annotated[field.annotation, field], data[key])
        elif field.is_required():
            values[name] = Unreadable()
        else:
            values[name] = field.get_default(call_default_factory=True, validated_data={})
    return model.model_construct(**values)


def _value(annotation: Any, raw: Any) -> Any:
    try:
        return TypeAdapter(annotation).validate_python(raw)
    except ValidationError:
        section = _section_class(annotation)
        if section is not None and isinstance(raw, Mapping):
            return _build(section, raw)
        return Unreadable()


def _section_class(annotation: Any) -> type[StrictModel] | None:
    """Return the one section class a field can hold, or None when there are several or none.

    The base class of a registry's entries stands for several.
    """
    kind = plain(annotation)
    arms = get_args(kind) if is_union(kind) else (kind,)
    found = [plain(arm) for arm in arms if arm is not type(None)]
    if len(found) == 1 and isinstance(found[0], type) and issubclass(found[0], BaseModel):
        several = issubclass(found[0], EntryConfig) and "type" not in found[0].model_fields
        return found[0] if issubclass(found[0], StrictModel) and not several else None
    return None
