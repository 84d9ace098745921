"""NumPy references of the integer arithmetic, which the runtime must match bit for bit."""

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array
from orchestrator.quantization.backends.hosts import exact_kinds, this_host
from orchestrator.quantization.kinds import (
    FLOAT,
    STATIC_KINDS,
    SYMMETRIC,
    UNSIGNED_LEVELS,
    KindName,
    QuantizedWeight,
    Range,
    RowSteps,
    quantize_weight,
    row_steps,
    unsigned_range,
)

KIND_NAMES: tuple[KindName, ...] = (FLOAT, *exact_kinds(this_host()))


def dequantized(weight: QuantizedWeight) -> Float32Array:
    """Return the float weight [K, N] that the integers stand for."""
    centered = weight.values.astype(np.float32) - weight.zero_point.astype(np.float32)
    return np.asarray(centered * weight.scale, dtype=np.float32)


def gemm_reference(
    x: Float32Array,
    weight: Float32Array,
    kind: KindName,
    bounds: Range | None = None,
    low: float | None = None,
) -> Float32Array:
    """Compute ``x @ weight`` in the integer arithmetic of ``kind``.

    Args:
        x: activations [..., K].
        weight: float weight [K, N]; quantized here.
        kind: one of ``KIND_NAMES``.
        bounds: calibrated range of x, for ``static_*`` kinds; None: that of x itself.
        low: known lower bound of x, for the kinds with a scale per row.

    Returns:
        The product [..., N]; integer accumulation is exact, as the runtime's must be.
    """
    if kind == FLOAT:
        return np.asarray(x @ weight, dtype=np.float32)
    quantized = quantize_weight(weight, kind)
    if kind == "s7" or kind in STATIC_KINDS:
        values, scale, zero_point = _quantize_tensor(x, bounds)
        return _product(values, zero_point, quantized) * (scale * quantized.scale)
    steps = row_steps(low)
    values, step = _quantize_rows(x, steps)
    product = _product(values, steps.zero_point, quantized) * quantized.scale
    return np.asarray(product * step, dtype=np.float32)


def _quantize_tensor(
    x: Float32Array, bounds: Range | None = None
) -> tuple[npt.NDArray[np.uint8], np.float32, int]:
    """Quantize activations with one asymmetric u8 range, given or that of x; clip what is outside.

    Returns:
        Values like ``x``, the scale and the zero point.
    """
    scale, zero_point = unsigned_range(*(bounds or (float(x.min()), float(x.max()))))
    values = np.clip(np.rint(x / scale) + zero_point, 0, UNSIGNED_LEVELS)
    return values.astype(np.uint8), scale, zero_point


def _quantize_rows(x: Float32Array, steps: RowSteps) -> tuple[npt.NDArray[np.uint8], Float32Array]:
    """Quantize each row of activations [..., K] around the constant zero point.

    Returns:
        Values like ``x`` and the step of each row [..., 1].
    """
    largest = np.abs(x) if steps.zero_point == SYMMETRIC.zero_point else x
    row_max = np.maximum(largest.max(axis=-1, keepdims=True), np.float32(steps.floor))
    step = np.asarray(row_max * np.float32(1 / steps.above), dtype=np.float32)
    values = np.clip(np.rint(x / step) + steps.zero_point, 0, UNSIGNED_LEVELS).astype(np.uint8)
    return values, step


def _product(
    values: npt.NDArray[np.uint8], zero_point: int, weight: QuantizedWeight
) -> Float32Array:
    left = values.astype(np.int32) - np.int32(zero_point)
    right = weight.values.astype(np.int32) - weight.zero_point.astype(np.int32)
    return np.asarray(left @ right, dtype=np.float32)
