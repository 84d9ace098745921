"""Product code that nothing in the product reaches: vulture, minus what frameworks call by name.

Tests do not count as users. Left out by rule: classes named by a locator ("package.module:Class"),
annotated fields of classes (configs and typed results are read by name), and methods that override
a library's. Everything else that may stay is in ``ALLOWED``, with the reason.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("orchestrator", "serving", "jobs")
LOCATOR = re.compile(r"[\w.}]+:(\w+)[\"']")
SETTINGS = ("attribute",)
"""Kinds of finding that are settings of a library's object: `options.intra_op_num_threads = 1`."""

ALLOWED: dict[str, str] = {}
"""Name → what calls it."""


def files() -> list[Path]:
    """Return the product's Python files."""
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def located() -> set[str]:
    """Return the names that locator strings hold."""
    return {name for path in files() for name in LOCATOR.findall(path.read_text(encoding="utf-8"))}


def by_framework(path: Path) -> Iterator[str]:
    """Yield names in a file that are used by being there: fields, validators, overrides."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                yield item.target.id
            decorators = getattr(item, "decorator_list", [])
            if any("validator" in ast.unparse(found) for found in decorators):
                yield item.name


def main() -> int:
    """Print what is unreachable, and return 1 if there is anything."""
    checker = Vulture()
    checker.scavenge([str(path) for path in files()])
    names = located() | ALLOWED.keys()
    fields = {str(path): set(by_framework(path)) for path in files()}
    found = [
        item
        for item in checker.get_unused_code(min_confidence=60)
        if item.name not in names
        and item.typ not in SETTINGS
        and item.name not in fields[str(item.filename)]
    ]
    for item in found:
        place = Path(item.filename).relative_to(ROOT)
        print(f"{place}:{item.first_lineno}: {item.typ} {item.name} is not reached by the product")
    unused = ALLOWED.keys() - {item.name for item in checker.get_unused_code(min_confidence=60)}
    for name in sorted(unused):
        print(f".ci/unreachable.py: {name} is reached; remove it from ALLOWED")
    return 1 if found or unused else 0


if __name__ == "__main__":
    sys.exit(main())
