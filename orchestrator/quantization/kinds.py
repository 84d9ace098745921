"""Arithmetic of a GEMM: the kinds, and the quantizers of weights and ranges.

Shapes: M rows, K inputs, N outputs. A weight is [K, N] (the transpose of a torch ``Linear``).
No library quantizes the weights: ONNX Runtime's quantization tool rewrites whole graphs, and its
signed 8-bit weights saturate on AVX2 (below).

=============  =============================  ==============================  =====================
kind           activations                    weights, per output channel     executed by
=============  =============================  ==============================  =====================
``fp32``       float                          float                           MatMul, LSTM
``static_s7``  u8, a calibrated range         signed 7 bit                    MatMulIntegerToFloat
``row_s7``     u8 symmetric, scale per row    signed 7 bit                    MatMulIntegerToFloat
``row_u8``     u8 symmetric, scale per row    unsigned 8 bit with zero point  MatMulIntegerToFloat
``s7``         u8, one range per call         signed 7 bit                    DynamicQuantizeMatMul,
                                                                              DynamicQuantizeLSTM
=============  =============================  ==============================  =====================

Full-range signed weights are left out on purpose: AVX2 adds two u8 x s8 products in 16 bits and
saturates (255 * 127 * 2 > 32767), so that constant rows come out 50 % wrong while random data look
fine. With 7-bit weights 255 * 63 * 2 = 32130 always fits; u8 x u8 takes an exact path.

Row scales and calibrated ranges make every row independent of the other rows of the batch, bit for
bit; ``s7`` does not (its range covers the whole call), see ``Plan.batch_invariant``. Row scales
need no calibration and follow outliers; a calibrated range costs the fewest operations and clips
values outside it.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array

KindName = Literal["fp32", "static_s7", "row_s7", "row_u8", "s7"]
Range = tuple[float, float]
"""Smallest and largest activation that a calibrated kind represents."""

FLOAT: Final[KindName] = "fp32"
STATIC: Final[KindName] = "static_s7"

SIGNED_LIMIT: Final = 63
ROW_LIMIT: Final = 127
ROW_ZERO_POINT: Final = 128
ROW_FLOOR: Final = 1e-12
"""Added to the largest magnitude of a row, so that a row of zeros is not divided by zero."""
UNSIGNED_LEVELS: Final = 255


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """An integer weight [K, N] with one scale and one zero point for each output channel [N]."""

    values: npt.NDArray[np.int8] | npt.NDArray[np.uint8]
    scale: Float32Array
    zero_point: npt.NDArray[np.int8] | npt.NDArray[np.uint8]


def quantize_signed(weight: Float32Array) -> QuantizedWeight:
    """Quantize each column of a weight [K, N] to [-63, 63]; a column of zeros gets scale 1."""
    scale = _safe_scale(np.abs(weight).max(axis=0) / np.float32(SIGNED_LIMIT))
    values = np.clip(np.rint(weight / scale), -SIGNED_LIMIT, SIGNED_LIMIT).astype(np.int8)
    return QuantizedWeight(values, scale, np.zeros(scale.shape, np.int8))


def quantize_unsigned(weight: Float32Array) -> QuantizedWeight:
    """Quantize each column of a weight [K, N] to u8 with a zero point; its range contains 0."""
    low = np.minimum(weight.min(axis=0), np.float32(0))
    high = np.maximum(weight.max(axis=0), np.float32(0))
    scale = _safe_scale((high - low) / np.float32(UNSIGNED_LEVELS))
    zero_point = np.clip(np.rint(-low / scale), 0, UNSIGNED_LEVELS)
    values = np.clip(np.rint(weight / scale) + zero_point, 0, UNSIGNED_LEVELS)
    return QuantizedWeight(values.astype(np.uint8), scale, zero_point.astype(np.uint8))


def quantize_weight(weight: Float32Array, kind: KindName) -> QuantizedWeight:
    """Quantize a weight [K, N] as ``kind`` needs it.

    Raises:
        ValueError: If weights of ``kind`` are float.
    """
    if kind == FLOAT:
        raise ValueError("the weights of fp32 are float")
    return quantize_unsigned(weight) if kind == "row_u8" else quantize_signed(weight)


def unsigned_range(low: float, high: float) -> tuple[np.float32, int]:
    """Return scale and zero point of u8 values that span a range, widened to contain 0.

    The formula is that of ONNX DynamicQuantizeLinear.
    """
    bottom, top = min(np.float32(low), np.float32(0)), max(np.float32(high), np.float32(0))
    scale = np.float32((top - bottom) / np.float32(UNSIGNED_LEVELS)) or np.float32(1)
    return scale, int(np.clip(np.rint(-bottom / scale), 0, UNSIGNED_LEVELS))


def _safe_scale(scale: Float32Array) -> Float32Array:
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
