"""Typed results of an objective, as they are stored and read back. Light: no torch, ray, pandas."""

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.training.compression import Miss

__all__ = ["CompressedFinalist", "CompressionCheck", "Miss", "ObjectiveResult"]


class CompressionCheck(StrictModel):
    """The check of one candidate after one rung: compressed without a search."""

    rows: int
    """Validation rows that were answered."""
    before: float
    """Score of the float model on them."""
    after: float
    """Score of the compressed model on them."""
    p95_ms: float
    """95th percentile of the time of one text."""
    forms: int = 1
    """Forms that were tried: 1 where the strongest compression loses nothing."""
    seconds: float = 0.0
    """Wall time of the check."""

    @property
    def drop(self) -> float:
        """Score that the compression costs."""
        return self.before - self.after


class CompressedFinalist(StrictModel):
    """A finalist after the full search, measured on the files that are published."""

    model: str
    """Model id."""
    validation: float = 0.0
    """Validation score of the compressed model; 0 where no form keeps the limits."""
    validation_before: float = 0.0
    """Validation score of the float model."""
    test: float = 0.0
    """Test score of the compressed model; it decides nothing."""
    test_before: float = 0.0
    """Test score of the float model."""
    p95_ms: float = 0.0
    """95th percentile of the time of one text."""
    bytes: int = 0
    """Size of the compressed model file."""
    misses: tuple[Miss, ...] = ()
    """Limits that the nearest form does not keep; empty: all are kept."""
    seconds: float = 0.0
    """Wall time of the search and of the measurements."""
    merged: bool = False
    """Whether the model is the winner with other candidates merged into it."""


class ObjectiveResult(StrictModel):
    """Objective of a selection and what its finalists reached."""

    after: str
    """Compression."""
    p95_ms: float | None
    """Limit; null: none."""
    max_accuracy_drop: float | None
    """Limit; null: none."""
    finalists: tuple[CompressedFinalist, ...] = Field(min_length=1)
    """Every full search, best first; those that miss a limit last."""

    def in_words(self) -> str:
        """One line for the log and the report, about the best finalist."""
        best = self.finalists[0]
        limit = "" if self.p95_ms is None else f" of {self.p95_ms:g} allowed"
        return (
            f"validation {best.validation_before:.4f} to {best.validation:.4f} after {self.after}, "
            f"p95 {best.p95_ms:.3g} ms{limit}, {best.bytes / 1e6:.2f} MB"
        )
