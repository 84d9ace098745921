"""Cross-field checks on a config with some invalid values.

So that one report holds everything: the checks that read only valid values still run. A value that
could not be read is replaced by `Unreadable`, which stops a check that touches it.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NoReturn, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.config.locate import is_union, plain
from orchestrator.config.model import StrictModel, join, sections
from orchestrator.config.registry import EntryConfig
from orchestrator.errors import Problem

logger = logging.getLogger(__name__)


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
