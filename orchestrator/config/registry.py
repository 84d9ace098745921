"""The one registry: named entries of every kind, open to other packages through entry points.

An entry has two halves: a config class (its options, importable without torch) and what it
configures, named by a locator (``"package.module:Class"``) that is imported when it is built. Where
the class itself is cheap to import, it nests its ``Config`` and stands for both halves. Other
packages add entries through the entry point group ``orchestrator.components``: an entry point is
named ``<kind>.<type>`` and refers to a class with a nested ``Config``, or to a config class that
registers itself when imported. It is imported only when asked for.

A field of a config is read from a registry through an annotation: `Choice` takes one entry with its
options, `NameOf` the name of one.

Kinds: ``embedding``, ``encoder``, ``decoder``, ``target``, ``task``, ``sample``, ``proxy``,
``policy``, ``continual_part``, ``backend``, ``calibrator``, ``compressor``, ``protocol``,
``segmenter``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from orchestrator.config.descriptions import describe
from orchestrator.config.messages import nearest, to_problems
from orchestrator.config.strict import StrictModel
from orchestrator.errors import InputError, Problem

ENTRY_POINT_GROUP = "orchestrator.components"
"""Entry points ``<kind>.<type> = "package.module:Class"`` of other packages."""


class EntryConfig(StrictModel):
    """Options of one entry; a subclass has ``type: Literal["<name>"] = "<name>"``."""

    @classmethod
    def type_name(cls) -> str:
        """The name under which the entry is registered."""
        return str(cls.model_fields["type"].default)


ConfigT = TypeVar("ConfigT", bound=EntryConfig)
SomeConfigT = TypeVar("SomeConfigT", bound=EntryConfig)
ClassT = TypeVar("ClassT", bound=type[Any])


@dataclass(frozen=True, slots=True)
class _Entry(Generic[ConfigT]):
    config: type[ConfigT]
    component: str | type[Any]


class Registry(Generic[ConfigT]):
    """The entries of one kind by name (the ``type`` of their config).

    Args:
        kind: What an entry is called in messages and in the names of entry points.
        config: Base class of the configs.
        builtin: Module or package whose import registers the built-in entries; it is imported at
            the first look-up, so that a registry can be defined below the modules that fill it. All
            modules of a package are imported: a new entry is one new file.
    """

    def __init__(self, kind: str, config: type[ConfigT], builtin: str | None = None) -> None:
        self.kind = kind
        self.config = config
        self._builtin = builtin
        self._entries: dict[str, _Entry[ConfigT]] = {}

    def register(
        self, component: str | type[Any]
    ) -> Callable[[type[SomeConfigT]], type[SomeConfigT]]:
        """Return a class decorator that registers a config class for ``component``.

        Args:
            component: The class that it configures, or its locator ``"package.module:Class"``.

        Raises:
            ValueError: An entry of that name exists already.
        """

        def decorate(config: type[SomeConfigT]) -> type[SomeConfigT]:
            self._add(config, component)
            return config

        return decorate

    def add(self, component: ClassT) -> ClassT:
        """Register a class by its nested ``Config``; usable as a class decorator.

        Raises:
            ValueError: An entry of that name exists already.
        """
        self._add(component.Config, component)
        return component

    def names(self) -> tuple[str, ...]:
        """All names in alphabetical order; entry points are listed without being imported."""
        return tuple(sorted({*self._known(), *self._plugins()}))

    def config_class(self, name: str) -> type[ConfigT]:
        """Return the config class of ``name``.

        Raises:
            InputError: No such entry; the nearest name and the others are listed.
        """
        return self._entry(name).config

    def component_class(self, name: str) -> type[Any]:
        """Import and return the class that ``name`` stands for.

        Raises:
            InputError: No such entry.
        """
        component = self._entry(name).component
        if isinstance(component, type):
            return component
        module, _, attribute = component.partition(":")
        found: type[Any] = getattr(import_module(module), attribute)
        return found

    def items(self) -> Iterator[tuple[str, type[ConfigT]]]:
        """Yield each name with its config class; entry points are imported."""
        for name in self.names():
            yield name, self.config_class(name)

    def unknown(self, name: str) -> str:
        """Say that ``name`` is not registered, with the nearest name and the others."""
        names = self.names()
        near = nearest(name, names)
        hint = [f"Did you mean {near!r}?"] if near else []
        if others := ", ".join(other for other in names if other != near):
            hint.append(f"({others})")
        return " ".join([f"{name!r} is not a registered {self.kind}.", *hint])

    def _add(self, config: type[Any], component: str | type[Any]) -> None:
        name = config.type_name()
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice.")
        if not issubclass(config, self.config):
            raise ValueError(
                f"The config of {self.kind} {name!r} must derive from {self.config.__name__}."
            )
        self._entries[name] = _Entry(config, component)

    def _known(self) -> Mapping[str, _Entry[ConfigT]]:
        if self._builtin is not None:
            name, self._builtin = self._builtin, None
            package = import_module(name)
            for module in iter_modules(getattr(package, "__path__", ())):
                import_module(f"{name}.{module.name}")
        return self._entries

    def _entry(self, name: str) -> _Entry[ConfigT]:
        if name not in self._known():
            self._load_plugin(name)
        return self._entries[name]

    def _plugins(self) -> dict[str, EntryPoint]:
        prefix = f"{self.kind}."
        found = entry_points(group=ENTRY_POINT_GROUP)
        return {e.name.removeprefix(prefix): e for e in found if e.name.startswith(prefix)}

    def _load_plugin(self, name: str) -> None:
        plugin = self._plugins().get(name)
        if plugin is None:
            raise InputError(self.unknown(name))
        loaded = plugin.load()
        if name not in self._entries and hasattr(loaded, "Config"):
            self.add(loaded)
        if name not in self._entries:
            raise InputError(
                f"Entry point {plugin.name} = {plugin.value} does not define the {self.kind} "
                f"{name!r}: its Config must have `type: Literal[{name!r}]`."
            )


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
            for config, option in zip(configs, options, strict=True):
                describe(config, handler.resolve_ref_schema(option))
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
