"""Paths of validation errors, from pydantic's location to the path in the YAML file.

A location holds more than keys: the tag of a discriminated union, the label of a union's arm. The
walk follows the types, so that ``("encoder", "transformer", "layers")`` becomes ``encoder.layers``
and the section that owns the field is known.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr, Tag
from pydantic.fields import FieldInfo

Location = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a config.

    Attributes:
        path: Keys and list indices from the root.
        owner: The section that has, or lacks, the last key; None when the types do not say.
        secret: Whether the value must not be shown.
    """

    path: Location
    owner: type[BaseModel] | None = None
    secret: bool = False

    def under(self, key: int | str) -> "Place":
        """Return the same place as seen from one level above."""
        return Place((key, *self.path), self.owner, self.secret)


def locate(model: type[BaseModel], location: Location) -> Place:
    """Translate pydantic's location; what the types cannot explain is kept as it is."""
    return _walk(model, location) or Place(location)


def plain(annotation: Any) -> Any:
    """Return a type without its ``Annotated`` metadata and without its alias name."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def is_union(annotation: Any) -> bool:
    """Return whether a plain type is a union."""
    return get_origin(annotation) in (Union, types.UnionType)


def field_named(model: type[BaseModel], key: int | str) -> FieldInfo | None:
    """Return the field a key of the input fills, by name or alias."""
    for name, field in model.model_fields.items():
        if key in (name, field.alias, field.validation_alias):
            return field
    return None


def _walk(annotation: Any, location: Location) -> Place | None:
    """Return the place, or None when this type cannot hold that location."""
    kind = plain(annotation)
    if is_union(kind):
        return _walk_union(get_args(kind), location)
    if not location:
        return Place((), secret=kind in (SecretStr, SecretBytes))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _walk_model(kind, location)
    return _walk_items(kind, location)


def _walk_items(kind: Any, location: Location) -> Place | None:
    """Go into a mapping's value or a list's item."""
    origin, items = get_origin(kind), get_args(kind)
    if not isinstance(origin, type) or not items:
        return None
    if location[1:] == ("[key]",):
        return Place(location[:1])
    position = 0
    if issubclass(origin, Mapping):
        position = 1
    elif issubclass(origin, tuple) and Ellipsis not in items and isinstance(location[0], int):
        position = min(location[0], len(items) - 1)
    found = _walk(items[position], location[1:])
    return found.under(location[0]) if found else None


def _walk_model(model: type[BaseModel], location: Location) -> Place | None:
    field = field_named(model, location[0])
    if len(location) == 1:
        secret = field is not None and _holds_secret(field.annotation)
        return Place(location, model, secret)
    found = _walk(field.annotation, location[1:]) if field is not None else None
    return found.under(location[0]) if found else None


def _walk_union(arms: tuple[Any, ...], location: Location) -> Place | None:
    """Go into the arm that pydantic names; a type or None has no name in the location."""
    if not location:
        return Place((), secret=any(_holds_secret(arm) for arm in arms))
    real = [arm for arm in arms if arm is not type(None)]
    if len(real) == 1:
        return _walk(real[0], location)
    named = [arm for arm in real if location[0] in _labels(arm)]
    found = (_walk(arm, location[1:]) for arm in [*named, *real])
    return next((place for place in found if place), None)


def _labels(arm: Any) -> set[Any]:
    """Return what pydantic may call an arm of a union: its class name, its tag, its literals."""
    labels = {item.tag for item in get_args(arm) if isinstance(item, Tag)}
    model = plain(arm)
    if isinstance(model, type) and issubclass(model, BaseModel):
        labels.add(model.__name__)
        for field in model.model_fields.values():
            if get_origin(plain(field.annotation)) is Literal:
                labels.update(get_args(plain(field.annotation)))
    return labels


def _holds_secret(annotation: Any) -> bool:
    kind = plain(annotation)
    if is_union(kind):
        return any(_holds_secret(arm) for arm in get_args(kind))
    return kind in (SecretStr, SecretBytes)
