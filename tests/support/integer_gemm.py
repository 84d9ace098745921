"""NumPy references of the integer arithmetic, which the runtime must match bit for bit."""

from typing import get_args

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array
from orchestrator.quantization.kinds import (
    FLOAT,
    ROW_FLOOR,
    ROW_LIMIT,
    ROW_ZERO_POINT,
    STATIC,
    UNSIGNED_LEVELS,
    KindName,
    QuantizedWeight,
    Range,
    quantize_weight,
    unsigned_range,
)

KIND_NAMES: tuple[KindName, ...] = get_args(KindName)


def dequantized(weight: QuantizedWeight) -> Float32Array:
    """Return the float weight [K, N] that the integers stand for."""
    centered = weight.values.astype(np.float32) - weight.zero_point.astype(np.float32)
    return np.asarray(centered * weight.scale, dtype=np.float32)


def gemm_reference(
    x: Float32Array, weight: Float32Array, kind: KindName, bounds: Range | None = None
) -> Float32Array:
    """Compute ``x @ weight`` in the integer arithmetic of ``kind``.

    Args:
        x: activations [..., K].
        weight: float weight [K, N]; quantized here.
        kind: one of ``KIND_NAMES``.
        bounds: calibrated range of x, for ``static_s7``; None: that of x itself.

    Returns:
        The product [..., N]; integer accumulation is exact, as the runtime's must be.
    """
    if kind == FLOAT:
        return np.asarray(x @ weight, dtype=np.float32)
    quantized = quantize_weight(weight, kind)
    if kind in ("s7", STATIC):
        values, scale, zero_point = _quantize_tensor(x, bounds)
        return _product(values, zero_point, quantized) * (scale * quantized.scale)
    values, row_max = _quantize_rows(x)
    scales = np.float32(1 / ROW_LIMIT) * quantized.scale
    product = _product(values, ROW_ZERO_POINT, quantized) * scales
    return np.asarray(product * row_max, dtype=np.float32)


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


def _quantize_rows(x: Float32Array) -> tuple[npt.NDArray[np.uint8], Float32Array]:
    """Quantize each row of activations [..., K] symmetrically around zero point 128.

    Returns:
        Values like ``x`` and the largest magnitude of each row [..., 1] (plus ``ROW_FLOOR``, so
        that a row of zeros does not become NaN).
    """
    row_max = np.abs(x).max(axis=-1, keepdims=True) + np.float32(ROW_FLOOR)
    scaled = (x / row_max) / np.float32(1 / ROW_LIMIT)
    values = np.clip(np.rint(scaled) + ROW_ZERO_POINT, 0, UNSIGNED_LEVELS).astype(np.uint8)
    return values, np.asarray(row_max, dtype=np.float32)


def _product(
    values: npt.NDArray[np.uint8], zero_point: int, weight: QuantizedWeight
) -> Float32Array:
    left = values.astype(np.int32) - np.int32(zero_point)
    right = weight.values.astype(np.int32) - weight.zero_point.astype(np.int32)
    return np.asarray(left @ right, dtype=np.float32)
