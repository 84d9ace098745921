"""The *MSE* calibrator: the range with the smallest squared error of the represented activations.

The error is that of rounding to 256 levels, step^2 / 12 for each activation inside the range, and
the squared distance to the range of each one outside (Sung et al. 2015; Banner et al. 2019).
"""

from typing import Final, Literal

import numpy as np

from orchestrator.quantization.calibrators.histogram import Histogram, HistogramCalibrator
from orchestrator.quantization.kinds import UNSIGNED_LEVELS, Range
from orchestrator.quantization.registries import CALIBRATORS, CalibratorConfig

FRACTIONS: Final = np.linspace(1.0, 0.05, 96)
"""Tried fractions of the largest, and of the smallest, activation."""
ROUNDS: Final = 3
"""Alternations between the two ends; the error is smooth in both."""


@CALIBRATORS.add
class MseCalibrator(HistogramCalibrator):
    """The range that represents the activations with the smallest mean squared error."""

    class Config(CalibratorConfig):
        """The range has the smallest mean squared error on the calibration rows."""

        type: Literal["mse"] = "mse"

    def clip(self, histogram: Histogram) -> Range:
        """Shrink one end after the other; a range always contains 0."""
        bottom, top = min(histogram.full[0], 0.0), max(histogram.full[1], 0.0)
        low, high = bottom, top
        for _ in range(ROUNDS):
            high = min((top * f for f in FRACTIONS), key=lambda end: _error(histogram, low, end))
            low = min((bottom * f for f in FRACTIONS), key=lambda end: _error(histogram, end, high))
        return float(low), float(high)


def _error(histogram: Histogram, low: float, high: float) -> float:
    """Return the sum of squared errors of activations in [low, high] and outside it."""
    outside = np.maximum(low - histogram.centers, 0) + np.maximum(histogram.centers - high, 0)
    inside = histogram.counts[outside == 0].sum()
    step = (high - low) / UNSIGNED_LEVELS
    return float(inside * step**2 / 12 + (histogram.counts * outside**2).sum())
