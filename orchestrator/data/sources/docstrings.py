"""Docstrings of installed libraries: their Python files, and the docstrings of each file.

Libraries are found through ``importlib.metadata`` and ``sysconfig``; their files come in an order
with a fair mix in every prefix. A file is parsed with ``ast`` and never imported or executed. Only
statements are visited, not expressions: docstrings, definitions, ``return`` and ``raise`` are all
statements, and skipping expressions halves the time.
"""

import ast
import gc
import hashlib
import inspect
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from orchestrator.config import did_you_mean
from orchestrator.errors import InputError

MIN_CHARACTERS = 40  # shorter ones ("Return self.") say nothing about their object
MAX_CHARACTERS = 4000  # a handful of module docstrings are whole manuals
MAX_FILE_BYTES = 250_000  # larger files are mostly generated tables
DOCUMENTS_PER_FILE = 64  # so that one long file does not stand for its library
BLANKS = re.compile(r"[ \t]+\n")

Function = ast.FunctionDef | ast.AsyncFunctionDef
NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

STDLIB = "stdlib"

# Import name and distribution of what `pip install` of this project brings along and documents
# well. Development extras are left out, so that installing them does not change the corpus.
USUAL = {
    "torch": "torch",
    "transformers": "transformers",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "pandas": "pandas",
    "ray": "ray",
    "deepspeed": "deepspeed",
    "matplotlib": "matplotlib",
    "sympy": "sympy",
    "networkx": "networkx",
    "pyarrow": "pyarrow",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pydantic": "pydantic",
    "fastapi": "fastapi",
    "starlette": "starlette",
    "aiohttp": "aiohttp",
    "huggingface_hub": "huggingface-hub",
    "fsspec": "fsspec",
    "jinja2": "Jinja2",
    "requests": "requests",
    "rich": "rich",
    "PIL": "pillow",
}

# Tests describe cases, not interfaces; vendored code would stand for the wrong library.
SKIPPED_FOLDERS = frozenset({
    "__pycache__", "_vendor", "dist-packages", "extern", "externals", "lib2to3", "node_modules",
    "site-packages", "test", "tests", "third_party", "thirdparty", "thirdparty_files",
})  # fmt: skip


class Docstring(NamedTuple):
    """One docstring and what the syntax tree says about its object.

    Attributes:
        text: The docstring, indentation removed.
        kind: Module, class, function or method.
        path: Dotted path of the object inside its library.
        arguments: Number of parameters without self and cls; -1 for modules and classes.
        returns: Whether it returns a value; None where the tree does not tell (stubs, generators,
            no function).
        raises: Whether its body has a ``raise`` statement; None for modules, classes and stubs.
        is_property: A method read like an attribute.
    """

    text: str
    kind: str
    path: str
    arguments: int = -1
    returns: bool | None = None
    raises: bool | None = None
    is_property: bool = False


def read_docstrings(file: Path, module: str) -> tuple[list[Docstring], str | None]:
    """Read the docstrings of a file.

    Args:
        file: A Python source file.
        module: Its dotted module path.

    Returns:
        The docstrings in source order (a fair sample where there are very many), and the reason
        why the file was rejected, or None.
    """
    source = file.read_bytes()
    if len(source) > MAX_FILE_BYTES:
        return [], "file too large"
    if b'"""' not in source and b"'''" not in source:
        return [], None
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], "not parseable"
    found = list(_walk(tree, module, "module"))
    step = -(-len(found) // DOCUMENTS_PER_FILE)
    return found[:: max(step, 1)], None


@dataclass(frozen=True, slots=True)
class Library:
    """One installed library: import name, version, and the folder its modules lie in."""

    name: str
    version: str
    root: Path

    def module(self, file: str) -> str:
        """Return the dotted path of a file, given relative to the root."""
        parts = file.removesuffix(".py").split("/")
        if parts[-1] == "__init__":
            parts.pop()
        return ".".join(parts if self.name == STDLIB else [self.name, *parts])


def usual_libraries() -> list[Library]:
    """Return the standard library and those of the usual libraries that are installed."""
    found = [find_library(STDLIB)]
    for name, distribution in USUAL.items():
        library = _locate(name, distribution)
        if library is not None:
            found.append(library)
    return found


def find_library(name: str) -> Library:
    """Find an installed library by its import name (``stdlib`` for the standard library).

    Raises:
        InputError: It is not installed, or it is not a package of Python files.
    """
    if name == STDLIB:
        return Library(STDLIB, platform.python_version(), Path(sysconfig.get_path("stdlib")))
    distributions = [USUAL[name]] if name in USUAL else metadata.packages_distributions().get(name)
    library = _locate(name, distributions[0]) if distributions else None
    if library is None:
        known = [STDLIB, *(n for n, d in USUAL.items() if _locate(n, d) is not None)]
        raise InputError(
            f"{name!r} is not an installed library with Python files. {did_you_mean(name, known)} "
            "Any other installed package may be named by its import name."
        )
    return library


@lru_cache(maxsize=256)
def list_files(library: Library, prefixes: tuple[str, ...] = ("",)) -> tuple[str, ...]:
    """List a library's Python files, relative to its root, in hash order.

    The order is that of the SHA-256 of library and path: the same on every machine, and a prefix
    of it is a fair sample of the library.

    Args:
        library: The library.
        prefixes: Relative folders or files to take; "" is everything.
    """
    files = {file for prefix in prefixes for file in _python_files(library.root, prefix)}
    return tuple(sorted(files, key=lambda file: _rank(f"{library.name}/{file}")))


def versions(libraries: Sequence[Library]) -> dict[str, str]:
    """Return everything that determines the text of the libraries: versions, also of Python."""
    return {"python": platform.python_version(), **{lib.name: lib.version for lib in libraries}}


def _parse(source: bytes) -> ast.Module:
    """Parse without the garbage collector, which would visit each half-built tree many times."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


def _walk(node: ast.Module | ast.ClassDef | Function, path: str, kind: str) -> Iterator[Docstring]:
    text = _clean(node)
    if text is not None:
        yield _describe(node, text, path, kind)
    if isinstance(node, Function):
        return  # definitions inside a function are not part of the interface of a library
    inside = "method" if kind == "class" else "function"
    for child in _definitions(node):
        child_kind = "class" if isinstance(child, ast.ClassDef) else inside
        yield from _walk(child, f"{path}.{child.name}", child_kind)


def _clean(node: ast.Module | ast.ClassDef | Function) -> str | None:
    """Return the docstring without indentation and trailing blanks, None where there is none."""
    if not node.body or not isinstance(node.body[0], ast.Expr):
        return None
    value = node.body[0].value
    if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
        return None
    text = BLANKS.sub("\n", inspect.cleandoc(value.value)).strip()
    text = text.encode("utf-8", "ignore").decode()  # Python allows lone surrogates, UTF-8 does not
    return text[:MAX_CHARACTERS] if len(text) >= MIN_CHARACTERS else None


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | Function]:
    """Yield the classes and functions defined directly in a body, also below ``if`` and ``try``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(child)


def _describe(node: ast.AST, text: str, path: str, kind: str) -> Docstring:
    if not isinstance(node, Function):
        return Docstring(text, kind, path)
    return Docstring(
        text,
        kind,
        path,
        arguments=_count_arguments(node, kind),
        returns=_returns(node),
        raises=None if _is_stub(node) else any(isinstance(s, ast.Raise) for s in _statements(node)),
        is_property=kind == "method" and any(_is_property(d) for d in node.decorator_list),
    )


def _count_arguments(node: Function, kind: str) -> int:
    spec = node.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
    bound = kind == "method" and bool(names) and names[0] in ("self", "cls", "mcs")
    variadic = (spec.vararg is not None) + (spec.kwarg is not None)
    return len(names) - bound + len(spec.kwonlyargs) + variadic


def _returns(node: Function) -> bool | None:
    if isinstance(node.returns, ast.Constant) and node.returns.value is None:
        return False
    if _is_stub(node):
        return None
    statements = list(_statements(node))
    values = [s.value for s in statements if isinstance(s, ast.Expr | ast.Assign)]
    if any(isinstance(v, ast.Yield | ast.YieldFrom) for v in values):
        return None
    results = [s.value for s in statements if isinstance(s, ast.Return) and s.value is not None]
    return any(not (isinstance(r, ast.Constant) and r.value is None) for r in results)


def _is_stub(node: Function) -> bool:
    """Return whether a body only holds its place: nothing, ``pass``, ``...`` or one ``raise``."""
    rest = node.body[1:]
    if not rest:
        return True
    only = rest[0]
    ellipsis = isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant)
    return len(rest) == 1 and (ellipsis or isinstance(only, ast.Pass | ast.Raise))


def _is_property(decorator: ast.expr) -> bool:
    name = decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")
    return name in ("property", "cached_property", "abstractproperty")


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a body in depth, leaving out nested functions and classes."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, name, ()):
            if isinstance(child, NESTED):
                continue
            if isinstance(child, ast.stmt):
                yield child
            yield from _statements(child)


def _locate(name: str, distribution: str) -> Library | None:
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    root = Path(str(found.locate_file(name)))
    return Library(name, found.version, root) if root.is_dir() else None


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _python_files(root: Path, prefix: str) -> Iterator[str]:
    place = root / prefix
    if place.is_file():
        yield prefix
    for folder, subfolders, names in os.walk(place):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        inside = Path(folder).relative_to(root).as_posix()
        start = "" if inside == "." else f"{inside}/"
        yield from (f"{start}{name}" for name in names if name.endswith(".py"))
