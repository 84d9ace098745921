"""Keep a library from importing others that it would use if they were installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Let modules look as if they were not installed; those imported already stay as they are.

    Args:
        names: Top-level modules.
    """
    hidden = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(hidden))  # None makes an import statement fail
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
