"""The kinds a GEMM can run in, the weight quantizers, and NumPy references of the arithmetic.

Shapes: M rows, K inputs, N outputs. A weight is [K, N] (the transpose of a torch ``Linear``).

=============  =============================  ==============================  =====================
kind           activations                    weights, per output channel     executed by
=============  =============================  ==============================  =====================
``fp32``       float                          float                           MatMul, LSTM
``static_s7``  u8, a calibrated range         signed 7 bit                    MatMulIntegerToFloat
``row_s7``     u8 symmetric, one scale a row  signed 7 bit                    MatMulIntegerToFloat
``row_u8``     u8 symmetric, one scale a row  unsigned 8 bit with zero point  MatMulIntegerToFloat
``s7``         u8, one range a call           signed 7 bit                    DynamicQuantizeMatMul,
                                                                              DynamicQuantizeLSTM
=============  =============================  ==============================  =====================

Full-range signed weights do not exist here on purpose: AVX2 adds two u8 x s8 products in 16 bits
and saturates (255 * 127 * 2 > 32767), so that constant rows come out 50 % wrong while random data
look fine. With 7-bit weights 255 * 63 * 2 = 32130 always fits; u8 x u8 takes an exact path.

Row scales and calibrated ranges make every row independent of the other rows of the batch, bit for
bit; ``s7`` does not (its range is taken over all that is in the call), see
``Plan.batch_invariant``. Row scales need no calibration and follow outliers; a calibrated range
costs the fewest operations and clips what it has not seen.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array

KindName = Literal["fp32", "static_s7", "row_s7", "row_u8", "s7"]
Range = tuple[float, float]
"""Smallest and largest activation a calibrated kind represents."""

FLOAT: Final[KindName] = "fp32"
STATIC: Final[KindName] = "static_s7"
KIND_NAMES: Final[tuple[KindName, ...]] = ("fp32", "static_s7", "row_s7", "row_u8", "s7")

SIGNED_LIMIT: Final = 63
ROW_LIMIT: Final = 127
ROW_ZERO_POINT: Final = 128
ROW_FLOOR: Final = 1e-12
UNSIGNED_LEVELS: Final = 255


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """An integer weight [K, N] with one scale and one zero point for each output channel [N]."""

    values: npt.NDArray[np.int8] | npt.NDArray[np.uint8]
    scale: Float32Array
    zero_point: npt.NDArray[np.int8] | npt.NDArray[np.uint8]

    def dequantized(self) -> Float32Array:
        """Return the float weight [K, N] which the integers stand for."""
        centred = self.values.astype(np.float32) - self.zero_point.astype(np.float32)
        return np.asarray(centred * self.scale, dtype=np.float32)


def quantize_signed(weight: Float32Array) -> QuantizedWeight:
    """Quantize a weight [K, N] to [-63, 63] a column; a column of zeros gets scale 1."""
    scale = _safe_scale(np.abs(weight).max(axis=0) / np.float32(SIGNED_LIMIT))
    values = np.clip(np.rint(weight / scale), -SIGNED_LIMIT, SIGNED_LIMIT).astype(np.int8)
    return QuantizedWeight(values, scale, np.zeros(scale.shape, np.int8))


def quantize_unsigned(weight: Float32Array) -> QuantizedWeight:
    """Quantize a weight [K, N] to u8 with a zero point a column; the range always contains 0."""
    low = np.minimum(weight.min(axis=0), np.float32(0))
    high = np.maximum(weight.max(axis=0), np.float32(0))
    scale = _safe_scale((high - low) / np.float32(UNSIGNED_LEVELS))
    zero_point = np.clip(np.rint(-low / scale), 0, UNSIGNED_LEVELS)
    values = np.clip(np.rint(weight / scale) + zero_point, 0, UNSIGNED_LEVELS)
    return QuantizedWeight(values.astype(np.uint8), scale, zero_point.astype(np.uint8))


def quantize_weight(weight: Float32Array, kind: KindName) -> QuantizedWeight:
    """Quantize a weight [K, N] the way ``kind`` needs it.

    Raises:
        ValueError: if ``kind`` keeps the weight in float.
    """
    if kind == FLOAT:
        raise ValueError("fp32 keeps its weight in float")
    return quantize_unsigned(weight) if kind == "row_u8" else quantize_signed(weight)


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
        values, scale, zero_point = quantize_tensor(x, bounds)
        return _accumulate(values, zero_point, quantized) * (scale * quantized.scale)
    values, row_max = quantize_rows(x)
    scales = np.float32(1 / ROW_LIMIT) * quantized.scale
    product = _accumulate(values, ROW_ZERO_POINT, quantized) * scales
    return np.asarray(product * row_max, dtype=np.float32)


def unsigned_range(low: float, high: float) -> tuple[np.float32, int]:
    """Return scale and zero point of u8 values that span a range, widened to contain 0.

    As ONNX DynamicQuantizeLinear does.
    """
    bottom, top = min(np.float32(low), np.float32(0)), max(np.float32(high), np.float32(0))
    scale = np.float32((top - bottom) / np.float32(UNSIGNED_LEVELS)) or np.float32(1)
    return scale, int(np.clip(np.rint(-bottom / scale), 0, UNSIGNED_LEVELS))


def quantize_tensor(
    x: Float32Array, bounds: Range | None = None
) -> tuple[npt.NDArray[np.uint8], np.float32, int]:
    """Quantize activations with one asymmetric u8 range, given or that of x; clip what is outside.

    Returns:
        Values like ``x``, the scale and the zero point.
    """
    scale, zero_point = unsigned_range(*(bounds or (float(x.min()), float(x.max()))))
    values = np.clip(np.rint(x / scale) + zero_point, 0, UNSIGNED_LEVELS)
    return values.astype(np.uint8), scale, zero_point


def quantize_rows(x: Float32Array) -> tuple[npt.NDArray[np.uint8], Float32Array]:
    """Quantize each row of activations [..., K] symmetrically around zero point 128.

    Returns:
        Values like ``x`` and the largest magnitude of each row [..., 1] (plus ``ROW_FLOOR``, so
        that a row of zeros does not become NaN).
    """
    row_max = np.abs(x).max(axis=-1, keepdims=True) + np.float32(ROW_FLOOR)
    scaled = (x / row_max) / np.float32(1 / ROW_LIMIT)
    values = np.clip(np.rint(scaled) + ROW_ZERO_POINT, 0, UNSIGNED_LEVELS).astype(np.uint8)
    return values, np.asarray(row_max, dtype=np.float32)


def _accumulate(
    values: npt.NDArray[np.uint8], zero_point: int, weight: QuantizedWeight
) -> Float32Array:
    left = values.astype(np.int32) - np.int32(zero_point)
    right = weight.values.astype(np.int32) - weight.zero_point.astype(np.int32)
    return np.asarray(left @ right, dtype=np.float32)


def _safe_scale(scale: Float32Array) -> Float32Array:
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
