"""The two halves of a pair in one batch, as a model of two streams reads them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from orchestrator.data.samples import Batch

SECOND = "second."
"""Prefix of what the second stream reads."""

Arrays = Mapping[str, npt.NDArray[np.generic]]


def two_streams(first: Arrays, second: Arrays, target_name: str) -> Batch:
    """Return both halves and the label 1, "they belong together", of every row."""
    arrays = {**first, **{f"{SECOND}{name}": array for name, array in second.items()}}
    rows = len(next(iter(first.values())))
    labels = {f"labels.{target_name}": torch.ones(rows, dtype=torch.int64)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | labels
