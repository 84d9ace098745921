"""One tool on Ray that carries a model through its whole life.

Pre-train, fine-tune, select, learn continually, quantize and serve: each stage reads and writes the
same artifact, the model package (``orchestrator.zoo``). From Python, `load` opens a package, `run`
runs a verb, `finetune` and `Zoo` are what they say; see ``orchestrator.api``.

Importing this package loads neither torch nor ray: names are looked up when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import LoadedPackage, finetune, load, run
    from orchestrator.zoo import Zoo

__version__ = "0.1.0"

__all__ = ["LoadedPackage", "Zoo", "__version__", "finetune", "load", "run"]

_PLACES = {"Zoo": "orchestrator.zoo"}
"""Module of each lazy name; the others are in ``orchestrator.api``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES.get(name, "orchestrator.api")), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
