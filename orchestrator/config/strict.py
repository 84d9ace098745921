"""The strict, frozen base of every config section."""

import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from orchestrator.config.descriptions import describe
from orchestrator.errors import ConfigError, Problem

_SCALARS = frozenset({bool, int, float, str})


class StrictModel(BaseModel):
    """A config section: unknown keys are refused, values never change after validation.

    Scalars are not converted: ``"7"`` is not a number, ``true`` not a whole number, ``1`` not true.
    A whole number is accepted where a number is asked for, and the other way round (``1e3`` steps).
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        defer_build=True,
        validate_default=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        protected_namespaces=(),
    )

    def problems(self) -> Iterable[Problem]:
        """Return what is wrong between fields, with paths relative to this section.

        Called after every field is valid by itself, on every section of the tree. When another
        field of the tree is invalid it still runs, and ends quietly at the first value that could
        not be read, so that one report holds as much as possible.
        """
        return ()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the fields."""
        schema = handler(core_schema)
        describe(cls, handler.resolve_ref_schema(schema))
        return schema

    @model_validator(mode="before")
    @classmethod
    def _refuse_conversions(cls, data: Any) -> Any:
        """Mark scalars that pydantic would convert, so that the field itself refuses them."""
        if not isinstance(data, Mapping):
            return data
        marked = {}
        for name, field in cls.model_fields.items():
            key = field.alias if field.alias in data else name
            if key in data and _is_converted(data[key], _scalar_types(field.annotation)):
                marked[key] = Misfit(data[key])
        return {**data, **marked} if marked else data


class Misfit:
    """A scalar of another kind than its field's: no field accepts it, messages show its value."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return show(self.value)


def _is_converted(value: Any, wanted: list[type]) -> bool:
    """Return whether pydantic would convert a scalar to another kind; whole floats may be int."""
    if not wanted or type(value) not in _SCALARS or type(value) in wanted:
        return False
    numbers = type(value) in (int, float) and (int in wanted or float in wanted)
    return not numbers


def _scalar_types(annotation: Any) -> list[type]:
    """Return the scalar kinds a field accepts, or nothing when it accepts anything else as well."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _scalar_types(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        arms = [arm for arm in get_args(annotation) if arm is not type(None)]
        kinds = [_scalar_types(arm) for arm in arms]
        return [kind for arm in kinds for kind in arm] if all(kinds) else []
    return [annotation] if annotation in _SCALARS else []


def show(value: Any, limit: int = 80) -> str:
    """Return a value as it is shown in a message: YAML words, quotes around text, cut when long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def join(prefix: str, path: str) -> str:
    """Return ``prefix.path``, without the dot when one of them is empty."""
    return f"{prefix}.{path}" if prefix and path else prefix or path


def sections(value: Any, prefix: str = "") -> Iterator[tuple[str, StrictModel]]:
    """Walk a config tree and yield each section with its path, the root first."""
    if isinstance(value, StrictModel):
        yield prefix, value
        items: Iterable[tuple[Any, Any]] = [
            (name, getattr(value, name)) for name in type(value).model_fields
        ]
    elif isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return
    for key, child in items:
        yield from sections(child, join(prefix, str(key)))


def collect_problems(model: StrictModel) -> list[Problem]:
    """Return the cross-field problems of a whole config tree, with absolute paths."""
    return [
        Problem(join(prefix, problem.path), problem.message)
        for prefix, section in sections(model)
        for problem in section.problems()
    ]


def require_no_problems(model: StrictModel, source: str) -> None:
    """Check a config that was built in Python the way a loaded one is checked.

    Raises:
        ConfigError: Listing every cross-field problem.
    """
    found = collect_problems(model)
    if found:
        raise ConfigError(source, found)
