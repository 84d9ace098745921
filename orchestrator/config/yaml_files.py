"""YAML in and out: safe, strict about duplicates, and read the same way it is written.

Two deliberate differences from PyYAML's YAML 1.1: ``1e-3`` is a number, and only ``true`` and
``false`` are truth values (``no``, ``on``, dates and ``1:30`` stay text), as in YAML 1.2.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.messages import nearest
from orchestrator.config.strict import join
from orchestrator.errors import ConfigError, Problem

MAX_BYTES = 4 * 2**20
"""Largest config file read."""
MAX_DEPTH = 64
"""Deepest nesting accepted."""
MAX_NODES = 100_000
"""Most values accepted after aliases are expanded: stops alias bombs."""

_TOO_DEEP = re.compile(rf"(?:[\[{{]\s*){{{MAX_DEPTH + 1}}}")
"""Brackets the scanner would need quadratic time to reject."""
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+|0o[0-7]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_RESOLVERS: list[tuple[str, re.Pattern[str], str]] = [
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+.0123456789"),
    ("tag:yaml.org,2002:int", _INT, "-+0123456789"),
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN"),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), "<"),
]


class _Loader(yaml.SafeLoader):
    """Safe loader with YAML 1.2 scalars that records duplicate keys instead of dropping them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (declared so by PyYAML)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[Problem] = []


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes exactly what the loader would not read back as text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (declared so by PyYAML)

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out: a resolved config is read by people."""
        return True


UNICODE_BREAKS = ("\x85", "\u2028", "\u2029")
"""Line breaks to YAML, which a plain or single-quoted text would fold into a space."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(each in text for each in UNICODE_BREAKS) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)

for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in _RESOLVERS:
        _class.add_implicit_resolver(_tag, _pattern, [*_first, ""] if "null" in _tag else _first)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.lstrip("+-")[:2] in ("0x", "0o") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, source: str) -> tuple[Any, list[Problem]]:
    """Parse one YAML document.

    Args:
        text: The document.
        source: Name of the file for messages.

    Returns:
        The value, and one problem for each key written twice (the first value is kept).

    Raises:
        ConfigError: Not YAML, several documents, nested too deep, or an alias bomb.
    """
    if _TOO_DEEP.search(text):
        raise ConfigError(source, [Problem("", f"nested deeper than {MAX_DEPTH} levels.")])
    try:
        loader = _Loader(text)
        node = _composed(text, loader, source)
        if node is None:
            return None, []
        _drop_duplicates(loader, node, "", set())
        return loader.construct_document(node), loader.duplicates
    except yaml.YAMLError as error:
        raise ConfigError(source, [_syntax_problem(error)]) from error
    except ValueError as error:  # int() and float() on what only looks like a number
        raise ConfigError(source, [Problem("", f"a value cannot be read: {error}")]) from error


def _composed(text: str, loader: _Loader, source: str) -> yaml.Node | None:
    """Build the node tree after the event stream proved it small, and refuse alias bombs."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(source, [Problem("", f"nested deeper than {MAX_DEPTH} levels.")])
    node: yaml.Node | None = loader.get_single_node()
    if node is not None and _expanded_size(node, {}) > MAX_NODES:
        message = f"its aliases expand to more than {MAX_NODES} values. Write the values out."
        raise ConfigError(source, [Problem("", message)])
    return node


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node with every alias expanded; a node inside itself is infinite."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_NODES + 1  # seen again before it is finished: it contains itself
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = min(1 + sum(_expanded_size(c, known) for c in children), MAX_NODES + 1)
    return known[id(node)]


def _drop_duplicates(loader: _Loader, node: yaml.Node, path: str, seen: set[int]) -> None:
    """Keep the first of each key of every mapping, and note the others as problems."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _drop_duplicates(loader, child, join(path, str(index)), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[Hashable, int] = {}
    kept = []
    for key_node, value_node in node.value:
        key = (key_node.tag, key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
        here = join(path, str(key_node.value)) if key else path
        line = key_node.start_mark.line + 1
        if key in lines and key_node.tag != "tag:yaml.org,2002:merge":
            message = f"the key is written twice (lines {lines[key]} and {line}). Keep one."
            loader.duplicates.append(Problem(here, message))
            continue
        if key:
            lines[key] = line
        kept.append((key_node, value_node))
        _drop_duplicates(loader, value_node, here, seen)
    node.value = kept


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return Problem("", f"not valid YAML: {where}{what}.")


def read_text(path: Path) -> str:
    """Read a config file.

    Raises:
        ConfigError: No such file (with the nearest names), a folder, unreadable, too large, or not
            UTF-8.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except FileNotFoundError as error:
        raise ConfigError(str(path), [Problem("", _missing(path))]) from error
    except IsADirectoryError as error:
        message = f"is a folder. Name one of its files: {_siblings(path / 'x') or 'none there'}."
        raise ConfigError(str(path), [Problem("", message)]) from error
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}."
        raise ConfigError(str(path), [Problem("", message)]) from error
    if data is None:
        message = f"larger than {MAX_BYTES} bytes: this is not a config file."
        raise ConfigError(str(path), [Problem("", message)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte 0x{data[error.start]:02x} on line {line}. Save it as UTF-8."
        raise ConfigError(str(path), [Problem("", message)]) from error


def _siblings(path: Path) -> str:
    folder = path.parent
    found = sorted(p for pattern in ("*.yaml", "*.yml") for p in folder.glob(pattern))
    return ", ".join(p.name for p in found[:12])


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"no such file: there is no folder {str(folder)!r}."
    near = nearest(path.name, [p.name for p in folder.iterdir()])
    guess = f" Did you mean {str(folder / near)!r}?" if near else ""
    others = _siblings(path)
    return f"no such file.{guess}" + (f" Configs there: {others}." if others else "")


def dump_mapping(data: Any) -> str:
    """Return plain data as YAML that `parse_yaml` reads back to the same data."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
