"""Calibrated activation ranges: what the inputs of each GEMM are like on real texts.

The float graph is run with every unit's input observed, one text at a time without padding, so
that no padding row widens a range. The range of a unit is the largest over the texts (the *max*
calibrator of TensorRT and FasterTransformer); what a later text has outside of it is clipped.
Whether that hurts is not assumed: the allocator measures it like every other error.
"""

import numpy as np

from orchestrator.quantization.accuracy import Encoded
from orchestrator.quantization.backends.onnx_session import OnnxModel
from orchestrator.quantization.graph import HIGH, LOW
from orchestrator.quantization.kinds import Range


def observed_ranges(model: bytes, texts: Encoded) -> dict[str, Range]:
    """Run an observed float graph over texts.

    Args:
        model: an ONNX model emitted with ``observe=True``.
        texts: encoded calibration texts.

    Returns:
        Smallest and largest input of each GEMM unit; layers that are not GEMMs have none.
    """
    runner = OnnxModel.from_bytes(model, batch_invariant=False)
    units = [name.removeprefix(LOW) for name in runner.outputs if name.startswith(LOW)]
    low, high = {unit: np.inf for unit in units}, {unit: -np.inf for unit in units}
    for batch in texts.batches:
        answers = runner.predict(batch)
        for unit in units:
            low[unit] = min(low[unit], float(answers[f"{LOW}{unit}"].min()))
            high[unit] = max(high[unit], float(answers[f"{HIGH}{unit}"].max()))
    return {unit: (low[unit], high[unit]) for unit in units}
