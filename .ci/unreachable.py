"""Product code that nothing in the product reaches: vulture, minus what frameworks call by name.

Tests do not count as users. Left out by rule: classes named by a locator ("package.module:Class"),
classes that a registry's decorator adds, validators, annotated fields of classes (configs and
typed results are read by name), methods that override a library's, with their parameters, and
names that Python itself calls (``__getattr__``).
Everything else that may stay is in ``ALLOWED``, with the reason.
"""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("orchestrator", "serving", "jobs")
LOCATOR = re.compile(r"[\w.}]+:(\w+)[\"']")
DECORATORS = ["@*.add", "@*.register", "@field_validator", "@model_validator"]
"""Decorators that hand a class or method to somebody who calls it."""
OTHER_CHECKS = ("attribute", "import")
"""Kinds of finding that stand for something else: settings of a library's object
(`options.intra_op_num_threads = 1`); imports for annotations, which ruff checks."""

ALLOWED: dict[str, str] = {
    "fault_hook": "the seam where tests end a process between two file operations",
    "is_numeric": "called by report/page.html",
    "is_long": "called by report/page.html",
    "reconfigure": "called by Ray Serve on every replica when its config changes",
    "check_health": "called by Ray Serve on every replica",
    "build_model": "Python interface; described in orchestrator/modeling/README.md",
    "write_adapter": "Python interface; described in orchestrator/modeling/README.md",
    "lora_state": "Python interface; described in orchestrator/modeling/README.md",
    "load_lora_state": "Python interface; described in orchestrator/modeling/README.md",
}
"""Name → what calls it."""


def files() -> list[Path]:
    """Return the product's Python files."""
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def located() -> set[str]:
    """Return the names that locator strings hold."""
    return {name for path in files() for name in LOCATOR.findall(path.read_text(encoding="utf-8"))}


def by_framework(path: Path) -> Iterator[str]:
    """Yield names in a file that are used by being there: fields, and overrides of a library's."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    libraries = dict(imported(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        inherited = {name for base in node.bases for name in members(ast.unparse(base), libraries)}
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                yield item.target.id
            if isinstance(item, ast.FunctionDef) and item.name in inherited:
                yield item.name
                yield from (argument.arg for argument in item.args.args)


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the names that a file imports from libraries, with their full names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


def members(base: str, libraries: dict[str, str]) -> list[str]:
    """Return the attributes of a base class if a library defines it."""
    first, _, rest = base.partition(".")
    full = ".".join(part for part in (libraries.get(first, ""), rest) if part)
    module, _, name = full.rpartition(".")
    if not module or module.split(".")[0] in ROOMS:
        return []
    return dir(getattr(importlib.import_module(module), name, object))


def main() -> int:
    """Print what is unreachable, and return 1 if there is anything.

    An entry of ``ALLOWED`` that is reached meanwhile is only named: whoever reached it is not the
    one who must know of this list.
    """
    checker = Vulture(ignore_decorators=DECORATORS)
    checker.scavenge([str(path) for path in files()])
    unused = checker.get_unused_code(min_confidence=60)
    names = located() | ALLOWED.keys()
    fields = {str(path): set(by_framework(path)) for path in files()}
    found = [
        item
        for item in unused
        if item.name not in names
        and item.typ not in OTHER_CHECKS
        and not item.name.startswith("__")
        and item.name not in fields[str(item.filename)]
    ]
    for item in found:
        place = Path(item.filename).relative_to(ROOT)
        print(f"{place}:{item.first_lineno}: {item.typ} {item.name} is not reached by the product")
    reached = sorted(ALLOWED.keys() - {item.name for item in unused})
    for name in reached:
        print(f".ci/unreachable.py: {name} is reached; remove it from ALLOWED")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
