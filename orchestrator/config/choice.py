"""Field types that are read from a registry: one entry with its options, or the name of one."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from orchestrator.config.messages import to_problems
from orchestrator.config.registry import EntryConfig, Registry
from orchestrator.errors import InputError, Problem


class NameOf:
    """Annotation of a field that holds the name of an entry: ``Annotated[str, NameOf(r)]``."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            self._validate, core_schema.str_schema(strict=True)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "enum": list(self.registry.names())}

    def _validate(self, value: str) -> str:
        try:
            self.registry.config_class(value)
        except InputError as error:
            raise _custom(str(error)) from error
        return value


class Choice:
    """Annotation of a field that holds one entry of a registry.

    The input is a name (``lstm``), a mapping with ``type`` (``{type: lstm, num_layers: 2}``), or a
    config object.
    """

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry
        self._within = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        names = self.registry.names()
        if self._within:  # an entry that holds one of its own kind: described once
            return {"anyOf": [{"enum": list(names)}, {"type": "object", "required": ["type"]}]}
        configs = [self.registry.config_class(name) for name in names]
        self._within = True
        try:
            options = [handler(config.__pydantic_core_schema__) for config in configs]
        finally:
            self._within = False
        return {"anyOf": [{"enum": list(names)}, *options]}

    def _validate(self, value: object) -> EntryConfig:
        if isinstance(value, str):
            value = {"type": value}
        name = getattr(value, "type", None) if isinstance(value, EntryConfig) else None
        if isinstance(value, Mapping):
            name = value.get("type")
        if not isinstance(name, str):
            raise _custom(f"must be a name or a mapping with `type`. {self._allowed()}")
        try:
            config: type[EntryConfig] = self.registry.config_class(name)
        except InputError as error:
            raise _at([Problem("type", str(error))], self.registry.kind) from error
        if isinstance(value, config):
            return value
        if isinstance(value, EntryConfig):
            raise _custom(f"{type(value).__name__} is not a {self.registry.kind}.")
        try:
            return config.model_validate(dict(cast(Mapping[str, Any], value)))
        except ValidationError as error:
            raise _at(to_problems(config, error), self.registry.kind) from error

    def _allowed(self) -> str:
        return f"Registered {self.registry.kind}s: {', '.join(self.registry.names())}."


def _custom(message: str) -> PydanticCustomError:
    return PydanticCustomError("entry", "{message}", {"message": message})


def _at(problems: Iterable[Problem], title: str) -> ValidationError:
    """Return one validation error that keeps each problem's own place and text."""
    lines = [
        InitErrorDetails(
            type=_custom(problem.message), loc=tuple(problem.path.split(".")), input=None
        )
        for problem in problems
    ]
    return ValidationError.from_exception_data(title, lines)


def _dump(value: EntryConfig, info: core_schema.SerializationInfo) -> dict[str, Any]:
    options = value.model_dump(
        mode=info.mode,
        exclude_defaults=info.exclude_defaults,
        exclude_unset=info.exclude_unset,
        exclude_none=info.exclude_none,
    )
    return {"type": value.type_name(), **options}
