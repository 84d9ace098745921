"""Docstrings of one Python file, with the facts about each object that the labelled tasks use.

The file is parsed with ``ast`` and never imported or executed. Only statements are visited, not
expressions: docstrings, definitions, ``return`` and ``raise`` are all statements, and skipping
expressions halves the time.
"""

import ast
import gc
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MIN_CHARACTERS = 40  # shorter ones ("Return self.") say nothing about their object
MAX_CHARACTERS = 4000  # a handful of module docstrings are whole manuals
MAX_FILE_BYTES = 250_000  # larger files are mostly generated tables
DOCUMENTS_PER_FILE = 64  # so that one long file does not stand for its library
BLANKS = re.compile(r"[ \t]+\n")

Function = ast.FunctionDef | ast.AsyncFunctionDef
NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


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
