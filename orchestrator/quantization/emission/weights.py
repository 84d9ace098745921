"""Parameters of a package on their way into a graph: checked, counted, transposed.

Legend: K inputs and N outputs of a GEMM.
"""

from collections.abc import Callable, Mapping

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import InputError


class Weights:
    """Reads parameters by name, and records which ones were read.

    INT8 arithmetic turns NaN into ordinary numbers, so non-finite parameters are refused here.
    """

    def __init__(self, state: Mapping[str, AnyArray]) -> None:
        self._state = state
        self._read: set[str] = set()
        self._name: Callable[[str], str] = str

    def renamed(self, name: Callable[[str], str]) -> "Weights":
        """Return the same parameters by other names; what is read there is read here.

        Args:
            name: Name of a parameter in the package, given the name it is asked for.
        """
        view = Weights(self._state)
        view._read, view._name = self._read, name
        return view

    def has(self, name: str) -> bool:
        """Return whether the package has a parameter of that name."""
        return self._name(name) in self._state

    def array(self, name: str) -> Float32Array:
        """Return a parameter in float32.

        Raises:
            InputError: If it is missing or not finite.
        """
        name = self._name(name)
        if name not in self._state:
            raise InputError(f"the package has no parameter {name!r}, which its config asks for")
        self._read.add(name)
        values = np.asarray(self._state[name], dtype=np.float32)
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise InputError(
                f"parameter {name!r} has {count} values that are NaN or infinite; INT8 would hide "
                "them: train the model again with a smaller learning rate"
            )
        return values

    def bias(self, layer: str) -> Float32Array | None:
        """Return the bias [N] of a layer, or None."""
        return self.array(f"{layer}.bias") if self.has(f"{layer}.bias") else None

    def matrix(self, layer: str) -> Float32Array:
        """Return the weight [K, N] of a torch ``Linear``, which stores [N, K]."""
        return np.ascontiguousarray(self.array(f"{layer}.weight").T)

    def leave(self, name: str) -> None:
        """Count a parameter as read that inference does not need, such as a masking vector."""
        self._read.add(self._name(name))

    def unread(self) -> list[str]:
        """Return the names of the parameters that were not read."""
        return sorted(set(self._state) - self._read)
