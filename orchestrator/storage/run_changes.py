"""Comparison of a job's settings with those that its run has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from orchestrator.config import JobConfig, load_config
from orchestrator.config.changes import may_change
from orchestrator.config.job import RunProgress
from orchestrator.config.strict import show
from orchestrator.config.yaml_files import parse_yaml, read_text
from orchestrator.errors import ConfigError, Problem

Settings = Mapping[str, JsonValue]
"""Values by path: ``a.0.b``."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A setting that differs, with both values in words."""

    before: str
    now: str

    def __str__(self) -> str:
        return f"is {self.now} now, but the run has {self.before}"


def flatten(value: Any, prefix: str = "") -> dict[str, JsonValue]:
    """Return nested mappings and lists as ``a.0.b`` → value; empty ones are values."""
    if isinstance(value, dict) and value:
        items = list(value.items())
    elif isinstance(value, list) and value:
        items = list(enumerate(value))
    else:
        return {prefix: value}
    flat = {}
    for key, item in items:
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def settings_of(config: JobConfig, path: Path) -> Settings:
    """Return the settings that a run has, with defaults for settings added since.

    Args:
        config: A config of the same class.
        path: File that they are in.
    """
    try:
        stored = load_config(type(config), path).model_dump(mode="json")
    except ConfigError:
        stored = parse_yaml(read_text(path), str(path))[0]
    return flatten(stored)


def changes_between(before: Settings, config: JobConfig) -> dict[str, Changed]:
    """Return the settings of a config that differ, by path."""
    now = flatten(config.model_dump(mode="json"))
    return {
        key: Changed(_shown(before, key), _shown(now, key))
        for key in dict.fromkeys([*now, *before])
        if now.get(key, _MISSING) != before.get(key, _MISSING)
    }


def refused_changes(
    changed: Mapping[str, Changed], before: Settings, config: JobConfig, progress: RunProgress
) -> list[Problem]:
    """Return a problem for each changed setting that decides the result.

    Args:
        changed: What differs.
        before: The settings that the run has.
        config: The job; says which of its settings may change.
        progress: How far the run is.
    """
    found = {
        path: f"{change}."
        for path, change in changed.items()
        if not may_change(config.changes, path)
    }
    for problem in config.fixed(before, progress):
        if problem.path in changed and problem.path not in found:
            found[problem.path] = f"{changed[problem.path]}: {problem.message}"
    return [Problem(path, message) for path, message in found.items()]


_MISSING = object()


def _shown(flat: Settings, key: str) -> str:
    return show(flat[key]) if key in flat else "not set"
