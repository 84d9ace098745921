"""Arithmetic of a GEMM: the kinds, and the quantizers of weights and ranges.

Shapes: M rows, K inputs, N outputs. A weight is [K, N] (the transpose of a torch ``Linear``).
No library quantizes the weights: ONNX Runtime's quantization tool rewrites whole graphs, and its
signed 8-bit weights saturate on AVX2 (below).

=============  =============================  ==============================  =====================
kind           activations                    weights, per output channel     executed by
=============  =============================  ==============================  =====================
``fp32``       float                          float                           MatMul, LSTM
``static_s7``  u8, a calibrated range         signed 7 bit                    MatMulIntegerToFloat
``row_s7``     u8, one scale per row          signed 7 bit                    MatMulIntegerToFloat
``row_u8``     u8, one scale per row          unsigned 8 bit with zero point  MatMulIntegerToFloat
``static_s8``  u8, a calibrated range         signed 8 bit                    MatMulIntegerToFloat
``row_s8``     u8, one scale per row          signed 8 bit                    MatMulIntegerToFloat
``s7``         u8, one range per call         signed 7 bit                    DynamicQuantizeMatMul,
                                                                              DynamicQuantizeLSTM
=============  =============================  ==============================  =====================

Full-range signed weights need a CPU with VNNI, AMX or ARM's dot products (``backends.hosts``): AVX2
adds two u8 x s8 products in 16 bits and saturates (255 * 127 * 2 > 32767), so that constant rows
come out 50 % wrong while random data look fine. With 7-bit weights 255 * 63 * 2 = 32130 always
fits; u8 x u8 takes an exact path.

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

KindName = Literal["fp32", "static_s7", "row_s7", "row_u8", "s7", "static_s8", "row_s8"]
TableKind = Literal["float", "int8"]
"""Storage of a table of embeddings; int8: signed 8 bit, one scale per row."""
Range = tuple[float, float]
"""Smallest and largest activation that a calibrated kind represents."""
Channels = tuple[Float32Array, Float32Array]
"""Smallest and largest activation of each channel: two [K]."""

FLOAT: Final[KindName] = "fp32"
STATIC_KINDS: Final[tuple[KindName, ...]] = ("static_s7", "static_s8")
"""Kinds with a calibrated range of activations."""
WIDE_KINDS: Final[tuple[KindName, ...]] = ("static_s8", "row_s8")
"""Kinds with full-range signed weights, exact on some hosts only."""
LSTM_KINDS: Final[tuple[KindName, ...]] = ("s7",)
BIASED_KINDS: Final[tuple[KindName, ...]] = ("s7", *STATIC_KINDS)
"""Kinds whose product takes a bias. With one scale per row ``MatMulIntegerToFloat`` (ONNX Runtime
1.32) multiplies the bias by the scale too."""

SIGNED_LIMIT: Final = 63
WIDE_LIMIT: Final = 127
UNSIGNED_LEVELS: Final = 255
BOUNDED_ZERO_POINT: Final = 20
"""Steps below zero of rows with a known lower bound; GELU's takes them at a largest value of 2."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """An integer weight [K, N] with one scale and one zero point for each output channel [N]."""

    values: npt.NDArray[np.int8] | npt.NDArray[np.uint8]
    scale: Float32Array
    zero_point: npt.NDArray[np.int8] | npt.NDArray[np.uint8]


def quantize_signed(weight: Float32Array, limit: int = SIGNED_LIMIT) -> QuantizedWeight:
    """Quantize each column of a weight [K, N] to [-limit, limit]; a zero column gets scale 1."""
    scale = _safe_scale(np.abs(weight).max(axis=0) / np.float32(limit))
    values = np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8)
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
    if kind == "row_u8":
        return quantize_unsigned(weight)
    return quantize_signed(weight, WIDE_LIMIT if kind in WIDE_KINDS else SIGNED_LIMIT)


def stored_name(unit: str, kind: KindName) -> str:
    """Return the name of a unit's weight as ``kind`` stores it; several kinds share one."""
    form = "u8" if kind == "row_u8" else "s8" if kind in WIDE_KINDS else "s7"
    return f"{unit}.{form}"


LOWEST: Final = {
    "gelu": -0.17,
    "gelu_tanh": -0.17005,
    "quick_gelu": -0.1637,
    "silu": -0.2785,
    "relu": 0.0,
}
"""Smallest value of activation functions that are bounded close below zero, rounded down."""


@dataclass(frozen=True, slots=True)
class RowSteps:
    """Division of each row of activations into u8 steps around a constant zero point.

    A row's step is its largest magnitude, at least ``floor``, over ``above``.
    """

    zero_point: int
    above: int
    """Steps above the zero point."""
    floor: float
    """Smallest represented magnitude."""


SYMMETRIC: Final = RowSteps(zero_point=128, above=127, floor=1e-12)
"""Steps of rows without a known bound. A row of zeros is not divided by zero."""


def row_steps(low: float | None) -> RowSteps:
    """Return the steps of rows whose values are at least ``low``, <= 0; None: no known bound.

    After an activation function values below zero are small, so that most steps go to those above;
    no pass for magnitudes is needed.
    """
    if low is None:
        return SYMMETRIC
    if low == 0:
        return RowSteps(0, UNSIGNED_LEVELS, SYMMETRIC.floor)
    above = UNSIGNED_LEVELS - BOUNDED_ZERO_POINT
    return RowSteps(BOUNDED_ZERO_POINT, above, -low * above / BOUNDED_ZERO_POINT)


def unsigned_range(low: float, high: float) -> tuple[np.float32, int]:
    """Return scale and zero point of u8 values that span a range, widened to contain 0.

    The formula is that of ONNX DynamicQuantizeLinear.
    """
    bottom, top = min(np.float32(low), np.float32(0)), max(np.float32(high), np.float32(0))
    scale = np.float32((top - bottom) / np.float32(UNSIGNED_LEVELS)) or np.float32(1)
    return scale, int(np.clip(np.rint(-bottom / scale), 0, UNSIGNED_LEVELS))


def _safe_scale(scale: Float32Array) -> Float32Array:
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
