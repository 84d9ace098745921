"""A GEMM by itself, as an observed graph states it."""

from dataclasses import dataclass

from orchestrator.arrays import Float32Array
from orchestrator.quantization.kinds import Range


@dataclass(frozen=True, slots=True)
class Product:
    """One unit's constant factor and what is known of the other one."""

    unit: str
    """Name of the unit."""
    weight: Float32Array
    """Its weight [K, N]."""
    low: float | None
    """Known lower bound of its input; None: there is none."""
    range: Range | None
    """Calibrated range of its input, if it has one."""
