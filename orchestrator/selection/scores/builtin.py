"""Import every module of this package: each registers its proxy score."""

from importlib import import_module
from pkgutil import iter_modules

from orchestrator.selection import scores

for _module in iter_modules(scores.__path__):
    import_module(f"{scores.__name__}.{_module.name}")
