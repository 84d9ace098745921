"""Interface of calibrators. Needs neither torch, Ray nor ONNX.

A new calibrator is one module in this folder, or an entry point ``calibrator.<type>`` of another
package, with a class like ``max.MaxCalibrator``.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final

from orchestrator.quantization.backends.backend import LoadedModel
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.registries import CALIBRATORS, CalibratorConfig

if TYPE_CHECKING:
    from orchestrator.quantization.measures import Encoded

LOW: Final = "low."
HIGH: Final = "high."
"""Prefixes of the outputs of an observed graph: the extremes of the input of each unit."""


class Calibrator(ABC):
    """Chooses the range of activations that each calibrated unit represents.

    Args:
        config: Options of this calibrator.
    """

    Config: ClassVar[type[CalibratorConfig]]

    def __init__(self, config: CalibratorConfig) -> None:
        self.config = config

    @abstractmethod
    def ranges(self, model: LoadedModel, texts: "Encoded") -> dict[str, Range]:
        """Run an observed float graph over texts.

        Args:
            model: A model emitted with ``observe=True``: it has the outputs ``low.<unit>`` and
                ``high.<unit>``.
            texts: "Encoded" calibration texts.

        Returns:
            Range of the input of each GEMM unit; layers that are not GEMMs have none.
        """


def make_calibrator(config: CalibratorConfig) -> Calibrator:
    """Build the calibrator that a config describes."""
    found: Calibrator = CALIBRATORS.component_class(config.type_name())(config)
    return found
