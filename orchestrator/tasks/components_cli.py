"""``orchestrator components``: the parts of models, their options, and model families."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.config.tables import table
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.config.registry import Registry

FAMILY = "family"
"""The kind under which classes of transformers are listed."""
Writer = Callable[[str], Any]


def register(subparsers: Any) -> None:
    """Add the verb ``components``."""
    parser = subparsers.add_parser("components", help="parts, their options, and model families")
    parser.add_argument("name", nargs="?", help="one component with all its options")
    parser.add_argument("--kind", help="only this kind: embedding, ..., task, or family")
    parser.add_argument("--json", action="store_true", help="write JSON instead of tables")
    parser.add_argument("--markdown", action="store_true", help="write the table of docs/models.md")
    parser.set_defaults(func=lambda options: show(options, sys.stdout.write))


def show(options: argparse.Namespace, write: Writer) -> int:
    """Write all components and families, or one component with its options.

    Raises:
        InputError: No such kind or component; the nearest name and the others are listed.
    """
    from orchestrator.modeling.catalog import describe_components, describe_families, find
    from orchestrator.modeling.config import REGISTERED

    registries = _registries()
    _require_kind(options.kind, registries)
    wants_families = options.kind == FAMILY or (options.kind is None and options.name is None)
    families = describe_families() if wants_families else []
    if options.kind == FAMILY:
        found = []
        families = [each for each in families if options.name in (None, each.name)]
    elif options.name is not None:
        found = find(options.name, options.kind, registries)
    else:
        # The page about models lists their components alone.
        listed = REGISTERED if options.markdown and options.kind is None else registries
        every = describe_components(listed)
        found = [each for each in every if options.kind in (None, each.kind)]
    if options.markdown:
        _write_markdown(found, write)
    elif options.json:
        plain = {
            "components": [asdict(c) for c in found],
            "families": [asdict(f) for f in families],
        }
        write(json.dumps(plain, indent=2, default=_plain) + "\n")
    elif options.name is not None and found:
        for component in found:
            _write_component(component, write)
    else:
        _write_overview(found, families, write)
    return 0


def _registries() -> "dict[str, Registry[Any]]":
    """Return the registries of models, and that of task kinds."""
    from orchestrator.modeling.config import REGISTERED
    from orchestrator.tasks.base import tasks

    return {**REGISTERED, "task": tasks}


def _require_kind(kind: str | None, registries: "dict[str, Registry[Any]]") -> None:
    from orchestrator.config import did_you_mean

    kinds = [*registries, FAMILY]
    if kind is not None and kind not in kinds:
        raise InputError(
            f"{kind!r} is not a kind of component. {did_you_mean(kind, kinds, 'Kinds')}"
        )


def _write_overview(components: Iterable[Any], families: Iterable[Any], write: Writer) -> None:
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for each in components:
        by_kind.setdefault(each.kind, []).append((each.name, each.summary))
    for each in families:
        summary = f"transformers' class, model type {each.model_type}, reads {each.processor}."
        by_kind.setdefault(FAMILY, []).append((each.name, summary))
    for kind, rows in by_kind.items():
        write(f"{kind}\n")
        write(table([(f"  {name}", summary) for name, summary in rows]) + "\n\n")


def _write_markdown(components: Iterable[Any], write: Writer) -> None:
    """Write one table per kind; a target embedding has the parts of an embedding."""
    by_kind: dict[str, list[Any]] = {}
    for each in components:
        by_kind.setdefault(each.kind, []).append(each)
    by_kind.pop("target_embedding", None)
    for kind, found in by_kind.items():
        write(f"| {kind} | purpose | options and defaults |\n| --- | --- | --- |\n")
        for each in found:
            options = ", ".join(_option(option) for option in each.options)
            write(f"| `{each.name}` | {each.summary} | {options} |\n".replace("||", "| |"))
        write("\n")


def _option(option: Any) -> str:
    if option.required:
        return f"`{option.name}` (required)"
    nested = hasattr(option.default, "model_dump")  # its own options are listed behind it
    return f"`{option.name}` {'(mapping)' if nested else _shown(option.default)}"


def _write_component(component: Any, write: Writer) -> None:
    """Write the summary and each option as it is written in Python, with what it does below."""
    write(f"{component.kind} {component.name}: {component.summary}\n")
    for option in component.options:
        default = "  (required)" if option.required else f" = {_shown(option.default)}"
        write(f"\n  {option.name}: {option.type}{default}\n      {option.description}\n")
    write("\n")


def _shown(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump is not None else str(value)
