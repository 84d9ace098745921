"""Import every module of this package: each registers its policy."""

from importlib import import_module
from pkgutil import iter_modules

from orchestrator.selection import policies

for _module in iter_modules(policies.__path__):
    import_module(f"{policies.__name__}.{_module.name}")
