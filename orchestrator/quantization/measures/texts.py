"""Encoded texts: token ids in batches, with the labels of the texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import AnyArray, IntArray


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as token ids, cut into batches of similar length; ``order[i]`` is the text of row i."""

    batches: tuple[dict[str, npt.NDArray[np.int32]], ...]
    order: IntArray
    labels: IntArray
    """Class of each text [N], in the order of the texts."""

    def __len__(self) -> int:
        return len(self.order)


def encode(rows: Sequence[Mapping[str, AnyArray]], order: IntArray, labels: IntArray) -> Encoded:
    """Pack batches of token ids with the position of each row among the texts."""
    batches = tuple(
        {name: np.asarray(values, dtype=np.int32) for name, values in batch.items()}
        for batch in rows
    )
    return Encoded(batches, np.asarray(order, np.int64), np.asarray(labels, np.int64))
