"""The *percentile* calibrator: a small share of the activations is clipped on each side."""

from typing import Literal

import numpy as np
from pydantic import Field

from orchestrator.quantization.calibrators.histogram import Histogram, HistogramCalibrator
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.registries import CALIBRATORS, CalibratorConfig


@CALIBRATORS.add
class PercentileCalibrator(HistogramCalibrator):
    """The range between two percentiles, mirrored."""

    class Config(CalibratorConfig):
        """The range leaves out the rarest activations on each side."""

        type: Literal["percentile"] = "percentile"
        percentile: float = Field(99.99, gt=50, le=100)
        """Largest activation that is represented, in percent of all; the smallest one is the
        percentile 100 minus this. 100: as `max`."""

    config: Config

    def clip(self, histogram: Histogram) -> Range:
        """Return the edges of the bins in which the percentiles lie."""
        share = np.cumsum(histogram.counts) / histogram.counts.sum()
        outside = 1 - self.config.percentile / 100
        first = int(np.searchsorted(share, outside, side="right"))
        last = int(np.searchsorted(share, 1 - outside, side="left"))
        last = min(max(last, first), len(share) - 1)
        return float(histogram.edges[first]), float(histogram.edges[last + 1])
