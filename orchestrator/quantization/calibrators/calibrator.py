"""Interface of calibrators, and what they observe. Needs neither torch, Ray nor ONNX.

A new calibrator is one module in this folder, or an entry point ``calibrator.<type>`` of another
package, with a class like ``max.MaxCalibrator``.

Legend: P positions, K inputs of a GEMM.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.quantization.backends.backend import LoadedModel
from orchestrator.quantization.kinds import Channels, Range
from orchestrator.quantization.registries import CALIBRATORS, CalibratorConfig

if TYPE_CHECKING:
    from orchestrator.quantization.measures import Encoded

INPUT: Final = "input."
"""Prefix of the outputs of an observed graph: the input [P, K] of each unit."""


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
            model: A model emitted with ``observe=True``: it has the outputs ``input.<unit>``.
            texts: "Encoded" calibration texts.

        Returns:
            Range of the input of each GEMM unit; layers that are not GEMMs have none.
        """


def make_calibrator(config: CalibratorConfig) -> Calibrator:
    """Build the calibrator that a config describes."""
    found: Calibrator = CALIBRATORS.component_class(config.type_name())(config)
    return found


def observations(model: LoadedModel, texts: "Encoded") -> Iterator[dict[str, Float32Array]]:
    """Yield the input [P, K] of each unit at the real positions of one text after the other.

    Each text runs alone and is cut behind its last real token. Positions of padding before or
    between real ones are left out of every input that has one row per position.
    """
    units = [name.removeprefix(INPUT) for name in model.outputs if name.startswith(INPUT)]
    if not units:
        return
    for batch in texts.batches:
        for row in range(len(next(iter(batch.values())))):
            yield _inputs(model, units, {name: v[row : row + 1] for name, v in batch.items()})


def _inputs(
    model: LoadedModel, units: Sequence[str], sample: Mapping[str, AnyArray]
) -> dict[str, Float32Array]:
    """Return the inputs of one sample; a text is cut and padding inside it left out."""
    if "input_ids" not in sample or "attention_mask" not in sample:
        answers = model.predict(sample)
        return {unit: answers[f"{INPUT}{unit}"] for unit in units}
    real = np.asarray(sample["attention_mask"][0] != 0)
    length = int(np.flatnonzero(real)[-1]) + 1
    shape = sample["input_ids"].shape
    cut = {n: v[:, :length] if v.shape == shape else v for n, v in sample.items()}
    answers = model.predict(cut)
    inputs = {unit: answers[f"{INPUT}{unit}"] for unit in units}
    return {u: v[real[:length]] if len(v) == length else v for u, v in inputs.items()}


def channel_extremes(model: LoadedModel, texts: "Encoded") -> dict[str, Channels]:
    """Return the smallest and largest input of each unit over all texts, by channel."""
    found: dict[str, Channels] = {}
    for inputs in observations(model, texts):
        for unit, values in inputs.items():
            low, high = values.min(axis=0), values.max(axis=0)
            if unit in found:
                low, high = np.minimum(found[unit][0], low), np.maximum(found[unit][1], high)
            found[unit] = (low, high)
    return found
