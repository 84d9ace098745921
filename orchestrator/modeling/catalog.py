"""What there is to build models from: kinds, names, options. Imports without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.modeling.component import ComponentConfig
from orchestrator.modeling.config import REGISTERED
from orchestrator.modeling.registry import Registry


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a component.

    Attributes:
        name: Key in the config.
        type: What it holds, in words: ``int``, ``float``, ``bool``, ``mean | first``.
        default: Value if the config does not say; None also where ``required``.
        required: Whether the config must say.
        description: What it does.
    """

    name: str
    type: str
    default: Any
    required: bool
    description: str


@dataclass(frozen=True, slots=True)
class Description:
    """One component: where it fits, its name, what it is, its options."""

    kind: str
    name: str
    summary: str
    options: tuple[Option, ...]


def describe_components() -> list[Description]:
    """Return every registered component, by kind and name, those of other packages included."""
    return [
        describe(registry, kind, name)
        for kind, registry in REGISTERED.items()
        for name in registry.names()
    ]


def describe(registry: Registry, kind: str, name: str) -> Description:
    """Return one component.

    Raises:
        InputError: No such component.
    """
    config = registry.config_class(name)
    summary = (config.__doc__ or "").strip().splitlines()[0]
    return Description(kind, name, summary, _options(config))


def _options(config: type[ComponentConfig]) -> tuple[Option, ...]:
    fields = config.model_fields.items()
    options = (_option(name, field) for name, field in fields if name != "type")
    own_name = config.type_name()
    return tuple(replace(o, default=own_name) if o.name == "name" else o for o in options)


def _option(name: str, field: FieldInfo) -> Option:
    default = field.get_default(call_default_factory=True, validated_data={})
    required = default is PydanticUndefined
    return Option(
        name=name,
        type=_words(field.annotation),
        default=None if required else default,
        required=required,
        description=" ".join((field.description or "").split()),
    )


def _words(annotation: Any) -> str:
    origin, items = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(items[0])
    if origin is Literal:
        return " | ".join(map(str, items))
    if origin in (Union, UnionType):
        return " | ".join(_words(item) for item in items)
    return "null" if annotation is NoneType else str(getattr(annotation, "__name__", annotation))
