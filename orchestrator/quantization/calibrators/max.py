"""The *max* calibrator of TensorRT and FasterTransformer: the largest range over all texts.

Values of later texts outside the range are clipped. The allocator measures the error of that, like
every other error.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.quantization.backends.backend import LoadedModel
from orchestrator.quantization.calibrators.calibrator import HIGH, LOW, Calibrator
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
        """Return the extremes of the observed outputs."""
        units = [name.removeprefix(LOW) for name in model.outputs if name.startswith(LOW)]
        low, high = dict.fromkeys(units, np.inf), dict.fromkeys(units, -np.inf)
        for batch in texts.batches:
            answers = model.predict(batch)
            for unit in units:
                low[unit] = min(low[unit], float(answers[f"{LOW}{unit}"].min()))
                high[unit] = max(high[unit], float(answers[f"{HIGH}{unit}"].max()))
        return {unit: (low[unit], high[unit]) for unit in units}
