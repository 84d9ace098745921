"""Installed libraries: their Python files, in an order with a fair mix in every prefix.

Libraries are found through ``importlib.metadata`` and ``sysconfig`` and are never imported.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from orchestrator.config import did_you_mean
from orchestrator.errors import InputError

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


def _locate(name: str, distribution: str) -> Library | None:
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    root = Path(str(found.locate_file(name)))
    return Library(name, found.version, root) if root.is_dir() else None


@lru_cache(maxsize=256)
def list_files(library: Library, prefixes: tuple[str, ...] = ("",)) -> tuple[str, ...]:
    """List a library's Python files, relative to its root, in hash order.

    The order is that of the SHA-256 of library and path: the same on every machine, and a prefix
    of it is a fair sample of the library.

    Args:
        library: The library.
        prefixes: Relative folders or files to take; "" is everything.
    """
    files = {file for prefix in prefixes for file in _walk(library.root, prefix)}
    return tuple(sorted(files, key=lambda file: _rank(f"{library.name}/{file}")))


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _walk(root: Path, prefix: str) -> Iterator[str]:
    place = root / prefix
    if place.is_file():
        yield prefix
    for folder, subfolders, names in os.walk(place):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        inside = Path(folder).relative_to(root).as_posix()
        start = "" if inside == "." else f"{inside}/"
        yield from (f"{start}{name}" for name in names if name.endswith(".py"))


def versions(libraries: Sequence[Library]) -> dict[str, str]:
    """Return everything that determines the text of the libraries: versions, also of Python."""
    return {"python": platform.python_version(), **{lib.name: lib.version for lib in libraries}}
