"""``builtin:digits``: scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998)."""

import numpy as np

from orchestrator.data.rows import Rows

LEVELS = 16  # grey levels of a pixel are 0..16


def read_digits() -> Rows:
    """Return all digits: images float32 [1797, 1, 8, 8] in [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / LEVELS).astype(np.float32)[:, None]
    return Rows([], None, found.target.astype(np.int64), images)
