"""Histograms of activations, and the base of the calibrators that clip by them.

Legend: n bins.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.quantization.backends.backend import LoadedModel
from orchestrator.quantization.calibrators.calibrator import (
    Calibrator,
    channel_extremes,
    observations,
)
from orchestrator.quantization.kinds import Range

if TYPE_CHECKING:
    from orchestrator.quantization.measures import Encoded

BINS: Final = 4096
"""16 bins per step of the unclipped range."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of activations between edges."""

    edges: FloatArray
    """n + 1 edges from the smallest to the largest activation."""
    counts: FloatArray
    """n counts."""

    @property
    def centers(self) -> FloatArray:
        """Centers of the bins."""
        return np.asarray((self.edges[:-1] + self.edges[1:]) / 2)

    @property
    def full(self) -> Range:
        """Smallest and largest activation."""
        return float(self.edges[0]), float(self.edges[-1])


class HistogramCalibrator(Calibrator):
    """Chooses each range from a histogram of the unit's input over all texts."""

    def ranges(self, model: LoadedModel, texts: "Encoded") -> dict[str, Range]:
        """Run the texts twice: for the extremes, and for the counts between them."""
        edges = {
            unit: np.linspace(low.min(), high.max(), BINS + 1)
            for unit, (low, high) in channel_extremes(model, texts).items()
        }
        counts = {unit: np.zeros(BINS) for unit in edges}
        for inputs in observations(model, texts):
            for unit, values in inputs.items():
                bounds = (edges[unit][0], edges[unit][-1])
                counts[unit] += np.histogram(values, BINS, bounds)[0]
        return {unit: self.clip(Histogram(edges[unit], counts[unit])) for unit in edges}

    @abstractmethod
    def clip(self, histogram: Histogram) -> Range:
        """Return the range to represent; activations outside it are clipped."""
