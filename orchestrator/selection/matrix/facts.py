"""Facts about the rows and columns of a performance matrix: provenance, metric, content.

A bottom-k sketch of the labelled rows finds a data set again under another name, so that a
selection cannot read the test scores of its own target.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.config import StrictModel

SKETCH_SIZE = 64
DIGITS = 10
"""Decimals of a normalized score: the same scores as percent or as error rates differ by rounding
errors, and a ranking must not depend on them."""

Scale = Literal["fraction", "percent", "range"]
"""``fraction``: 1 is perfect; ``percent``: 100 is; ``range``: no bounds, such as a loss."""
SCALES: tuple[Scale, ...] = get_args(Scale)


class Source(StrictModel):
    """Provenance of imported cells."""

    file: str
    """File that was read, as it was named."""
    sha256: str
    """Hash of its bytes."""
    imported_at: str
    """Date and time of the import, UTC, ISO 8601."""
    rows: int
    """Lines of data."""
    options: dict[str, str]
    """Options of the import."""


class ModelFacts(StrictModel):
    """Provenance of one row of the matrix."""

    package: str = ""
    """Package reference ``name/v0001`` that was fine-tuned; empty for imported tables."""
    manifest_sha256: str = ""
    """Hash of the manifest of that package."""
    trained_on: tuple[str, ...] = ()
    """Data sets the model declares it was trained on."""


class DatasetFacts(StrictModel):
    """Metric and content of one column of the matrix."""

    metric: str = "accuracy"
    """Name of the score."""
    higher_is_better: bool = True
    """Its direction."""
    scale: Scale = "fraction"
    """Its scale."""
    worst: float = 0.0
    """Score that counts as 0; of scale ``range`` only."""
    best: float = 1.0
    """Score that counts as 1; of scale ``range`` only."""
    digest: str = ""
    """Hash of the rows; empty when unknown."""
    sketch: tuple[int, ...] = ()
    """The `SKETCH_SIZE` smallest 52-bit hashes of the (text, label) rows, sorted."""
    protocol: str = ""
    """Hash of the fine-tuning settings the column was measured with."""
    train_rows: int = 0
    """Training rows of one epoch; 0 when unknown."""

    def normalized(self, values: FloatArray) -> FloatArray:
        """Scores on one scale: 1 is perfect (``range``: the best stored one), larger is better.

        Correlations may be negative, and error rates above 1; both give negative numbers.
        """
        if self.scale == "range":
            return np.round((values - self.worst) / (self.best - self.worst), DIGITS) + 0.0
        unit = values / 100 if self.scale == "percent" else values
        return np.round(unit if self.higher_is_better else 1 - unit, DIGITS) + 0.0


def is_tagged(model: str, trained_on: Iterable[str], dataset: str) -> bool:
    """Return whether ``dataset`` is a declared training set, or a whole word of the model id."""
    declared = {plain_name(name) for name in trained_on}
    words = re.split(r"[^a-z0-9]+", model.lower())
    return plain_name(dataset) in declared or dataset.lower() in words


def sketch_rows(rows: Iterable[tuple[str, str]]) -> tuple[int, ...]:
    """Bottom-k sketch of (text, label) rows: sets that share most rows share most of it."""
    hashes = {
        int.from_bytes(hashlib.sha256(f"{label}\x1f{text}".encode()).digest()[:8], "big") >> 12
        for text, label in rows
    }
    return tuple(sorted(hashes)[:SKETCH_SIZE])


def overlap(one: Sequence[int], two: Sequence[int]) -> float:
    """Share of the smaller set contained in the other, estimated from two bottom-k sketches."""
    if not one or not two:
        return 0.0
    limit = min(one[-1], two[-1])
    left, right = ({value for value in sketch if value <= limit} for sketch in (one, two))
    smaller = min(len(left), len(right))
    return len(left & right) / smaller if smaller else 0.0


def plain_name(name: str) -> str:
    """Data set name without scheme, case and punctuation, for comparison."""
    return re.sub(r"[^a-z0-9]+", "", re.sub(r"^(builtin|files|hf):", "", name.lower()))
