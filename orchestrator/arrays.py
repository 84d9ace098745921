"""Array types that the whole library shares."""

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
"""Whole numbers: token ids, positions, indices."""

FloatArray = npt.NDArray[np.float64]
"""Real numbers in full precision: scores, statistics, references."""

Float32Array = npt.NDArray[np.float32]
"""Real numbers as models take and give them: features, logits, vectors."""

BoolArray = npt.NDArray[np.bool_]
"""Masks: true where something holds."""

AnyArray = npt.NDArray[Any]
"""An array of any element type."""
