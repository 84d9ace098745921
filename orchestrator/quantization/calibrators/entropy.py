"""The *entropy* calibrator of TensorRT: the range whose 256 levels lose the least information.

Migacz, "8-bit inference with TensorRT", GTC 2017. For each clipped range, P is the distribution
with the activations outside it moved to its edges, and Q is the distribution inside it, averaged
over each level; the range with the smallest divergence KL(P || Q) is taken. As there, magnitudes
are clipped; the range stays asymmetric where the activations are.
"""

from typing import Final, Literal

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.quantization.calibrators.histogram import Histogram, HistogramCalibrator
from orchestrator.quantization.kinds import UNSIGNED_LEVELS, Range
from orchestrator.quantization.registries import CALIBRATORS, CalibratorConfig

FRACTIONS: Final = np.geomspace(1.0, 0.02, 118)
"""Tried fractions of the largest magnitude, 3.4 % apart."""
FLOOR: Final = 1e-9
"""Smallest probability of Q, so that a level without activations is not an infinite divergence."""
LEVELS: Final = UNSIGNED_LEVELS + 1


@CALIBRATORS.add
class EntropyCalibrator(HistogramCalibrator):
    """The range whose levels keep the distribution of the activations best."""

    class Config(CalibratorConfig):
        """The range has the smallest Kullback-Leibler divergence on the calibration rows."""

        type: Literal["entropy"] = "entropy"

    def clip(self, histogram: Histogram) -> Range:
        """Clip magnitudes; of equal divergences the widest range is taken."""
        low, high = histogram.full
        limit = max(abs(low), abs(high))
        ranges = [(max(low, -limit * f), min(high, limit * f)) for f in FRACTIONS]
        low, high = min(ranges, key=lambda bounds: _divergence(histogram, *bounds))
        return float(low), float(high)


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Return KL(P || Q) in nats for the range [low, high]; infinite if it holds no activation."""
    inside = (histogram.centers >= low) & (histogram.centers <= high)
    counts = histogram.counts[inside]
    if not counts.any():
        return float("inf")
    clipped = counts.copy()
    clipped[0] += histogram.counts[histogram.centers < low].sum()
    clipped[-1] += histogram.counts[histogram.centers > high].sum()
    levels = np.minimum(np.arange(len(counts)) * LEVELS // len(counts), LEVELS - 1)
    filled = clipped > 0
    totals = np.bincount(levels, counts, LEVELS)
    members = np.bincount(levels, filled, LEVELS)
    averages = np.divide(totals, members, out=np.zeros(LEVELS), where=members > 0)
    return _kl(clipped, np.where(filled, averages[levels], 0.0))


def _kl(left: FloatArray, right: FloatArray) -> float:
    """Return KL(left || right) of unnormalized distributions."""
    left = left / left.sum()
    right = np.maximum(right / right.sum(), FLOOR)
    some = left > 0
    return float((left[some] * np.log(left[some] / right[some])).sum())
