"""The *max* calibrator of TensorRT and FasterTransformer: the largest range over all texts.

Values of later texts outside the range are clipped. The allocator measures the error of that, like
every other error.
"""

from typing import TYPE_CHECKING, Literal

from orchestrator.quantization.backends.backend import LoadedModel
from orchestrator.quantization.calibrators.calibrator import Calibrator, channel_extremes
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.registries import CALIBRATORS, CalibratorConfig

if TYPE_CHECKING:
    from orchestrator.quantization.measures import Encoded


@CALIBRATORS.add
class MaxCalibrator(Calibrator):
    """Smallest and largest input of each unit over all texts."""

    class Config(CalibratorConfig):
        """The range is the largest seen on the calibration rows."""

        type: Literal["max"] = "max"

    def ranges(self, model: LoadedModel, texts: "Encoded") -> dict[str, Range]:
        """Return the extremes over all channels."""
        return {
            unit: (float(low.min()), float(high.max()))
            for unit, (low, high) in channel_extremes(model, texts).items()
        }
