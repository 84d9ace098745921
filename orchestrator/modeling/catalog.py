"""Descriptions of all components and of the families of transformers' classes.

Imports without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.config.descriptions import descriptions
from orchestrator.config.registry import Registry
from orchestrator.errors import InputError
from orchestrator.modeling.component import ComponentConfig
from orchestrator.modeling.config import REGISTERED


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a component.

    Attributes:
        name: Key in the config; ``rotary.theta`` is a key of the mapping ``rotary``, and
            ``position_bias[t5].buckets`` one of a mapping that has ``type: t5``.
        type: Its kind of value in words: ``int``, ``float``, ``bool``, ``mean | first``.
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
class Family:
    """One class of transformers that can be imported and exported.

    Attributes:
        name: Name of the class: ``BertForMaskedLM``.
        model_type: Their ``model_type``: ``bert``.
        processor: What it reads: ``text``, ``image``, ...
    """

    name: str
    model_type: str
    processor: str


@dataclass(frozen=True, slots=True)
class Description:
    """One component: its kind, name, purpose and options."""

    kind: str
    name: str
    summary: str
    options: tuple[Option, ...]


Registries = Mapping[str, Registry[Any]]
"""Registries by kind."""


def describe_components(registries: Registries = REGISTERED) -> list[Description]:
    """Return every registered component, by kind and name, those of other packages included."""
    return [
        describe(registry, kind, name)
        for kind, registry in registries.items()
        for name in registry.names()
    ]


def describe_families() -> list[Family]:
    """Return every class of transformers that `zoo import` and `zoo export` know, by name."""
    from orchestrator.modeling.huggingface.classes import architectures

    known = architectures()
    return [Family(name, known[name].model_type, known[name].processor) for name in sorted(known)]


def find(
    name: str, kind: str | None = None, registries: Registries = REGISTERED
) -> list[Description]:
    """Return the components of a name; several kinds may have one of it.

    Raises:
        InputError: No component has that name.
    """
    found = [each for each in describe_components(registries) if each.name == name]
    found = [each for each in found if kind in (None, each.kind)]
    if not found:
        kinds = registries if kind is None else {kind: registries[kind]}
        names = {name for registry in kinds.values() for name in registry.names()}
        raise InputError(
            f"{name!r} is not a registered {kind or 'component'}. "
            f"{did_you_mean(name, sorted(names), 'Registered')}"
        )
    return found


def describe(registry: Registry[Any], kind: str, name: str) -> Description:
    """Return one component.

    Raises:
        InputError: No such component.
    """
    config = registry.config_class(name)
    lines = (config.__doc__ or "").strip().splitlines()
    summary = lines[0] if lines else "Not described."
    return Description(kind, name, summary, _options(config))


def _options(config: type[StrictModel]) -> tuple[Option, ...]:
    fields = config.model_fields.items()
    options = [o for name, field in fields if name != "type" for o in _option(config, name, field)]
    if not issubclass(config, ComponentConfig):
        return tuple(options)
    own_name = config.type_name()
    return tuple(replace(o, default=own_name) if o.name == "name" else o for o in options)


def _option(config: type[StrictModel], name: str, field: FieldInfo) -> list[Option]:
    """Return an option, and behind it those of the mapping that it may hold."""
    default = field.get_default(call_default_factory=True, validated_data={})
    required = default is PydanticUndefined
    own = Option(
        name=name,
        type=_words(field.annotation),
        default=None if required else default,
        required=required,
        description=" ".join(descriptions(config).get(name, "").split()),
    )
    models = _models(field.annotation)
    nested = [
        replace(option, name=f"{_place(name, model, len(models))}.{option.name}")
        for model in models
        for option in _options(model)
    ]
    return [own, *nested]


def _models(annotation: Any) -> list[type[StrictModel]]:
    """Return the kinds of mappings that an option may hold."""
    origin, items = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _models(items[0])
    if origin in (Union, UnionType):
        return [model for item in items for model in _models(item)]
    plain = isinstance(annotation, type) and issubclass(annotation, StrictModel)
    return [annotation] if plain and not issubclass(annotation, ComponentConfig) else []


def _place(name: str, model: type[StrictModel], count: int) -> str:
    kind = model.model_fields.get("type")
    return f"{name}[{kind.default}]" if kind is not None and count > 1 else name


def _words(annotation: Any) -> str:
    origin, items = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(items[0])
    if origin is Literal:
        return " | ".join(map(str, items))
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(_words(item) for item in items))
    if origin is tuple:
        return f"list of {_words(items[0])}"
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        kind = annotation.model_fields.get("type")
        return "mapping" if kind is None else f"{{type: {kind.default}}}"
    return "null" if annotation is NoneType else str(getattr(annotation, "__name__", annotation))
