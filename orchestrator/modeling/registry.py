"""Name tables of the component kinds, open to other packages through entry points.

A component has two halves: a config class that imports without torch, and a module class named by a
locator (``"package.module:Class"``) that is imported when a model is built. Other packages add
components through the entry point group ``orchestrator.components``; an entry is named
``<kind>.<type>`` and refers to a module class with a nested ``Config`` (or to a config class that
registers itself when imported). It is imported only when asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.modeling.component import ComponentConfig

ENTRY_POINT_GROUP = "orchestrator.components"
"""Entry points ``<kind>.<type> = "package.module:Class"`` of other packages."""

ConfigT = TypeVar("ConfigT", bound="ComponentConfig")


@dataclass(frozen=True, slots=True)
class _Entry:
    config: type[ComponentConfig]
    component: str | type[Any]


class Registry:
    """The components of one kind by name (the ``type`` of their config)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, _Entry] = {}

    def register(self, component: str | type[Any]) -> Callable[[type[ConfigT]], type[ConfigT]]:
        """Return a class decorator that registers a config class for ``component``.

        Args:
            component: The module class, or its locator ``"package.module:Class"``.

        Raises:
            ValueError: A component of that name exists already.
        """

        def decorate(config: type[ConfigT]) -> type[ConfigT]:
            name = config.type_name()
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice.")
            self._entries[name] = _Entry(config, component)
            return config

        return decorate

    def names(self) -> tuple[str, ...]:
        """All names in alphabetical order; entry points are listed without being imported."""
        return tuple(sorted({*self._entries, *self._plugins()}))

    def config_class(self, name: str) -> type[ComponentConfig]:
        """Return the config class of ``name``.

        Raises:
            InputError: No such component; the nearest name and the others are listed.
        """
        return self._entry(name).config

    def component_class(self, name: str) -> type[Any]:
        """Import and return the module class of ``name``.

        Raises:
            InputError: No such component.
        """
        component = self._entry(name).component
        if isinstance(component, type):
            return component
        module, _, attribute = component.partition(":")
        found: type[Any] = getattr(import_module(module), attribute)
        return found

    def unknown(self, name: str) -> str:
        """Say that ``name`` is not registered, with the nearest name and the others."""
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        others = ", ".join(other for other in names if other not in near)
        return f"{name!r} is not a registered {self.kind}. {hint}({others})"

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
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
            self.register(loaded)(loaded.Config)
        if name not in self._entries:
            raise InputError(
                f"Entry point {plugin.name} = {plugin.value} does not define the {self.kind} "
                f"{name!r}: its Config must have `type: Literal[{name!r}]`."
            )


embeddings = Registry("embedding")
encoders = Registry("encoder")
decoders = Registry("decoder")
targets = Registry("target")
target_embeddings = embeddings
"""A target embedding is an embedding in another place: both kinds share one table."""
