"""Config section of the objective. Imports neither torch, Ray nor pandas."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.config.registry import NameOf
from orchestrator.errors import Problem
from orchestrator.training.compression import COMPRESSORS
from orchestrator.zoo.gate import Promotion

FLOAT_SUFFIX = "-float"
"""Ending of the name of a float package whose compressed form has the configured name."""


class ObjectiveConfig(StrictModel):
    """Score that a candidate is chosen by: as it is trained, or after compression.

    With ``after``, each rung ranks by the validation score of the compressed candidate, and each
    finalist is compressed in full. The compressed winner becomes `package`; its float model becomes
    `<package>-float`.
    """

    after: Annotated[str, NameOf(COMPRESSORS)] | None = None
    """Compression before a candidate is scored, such as int8; null: none."""
    p95_ms: float | None = Field(None, gt=0)
    """Longest time of one text in milliseconds: the 95th percentile over validation rows of the
    compressed model, one text per call, one thread, CPU time, without the tokenizer."""
    max_accuracy_drop: float | None = Field(None, ge=0, le=1)
    """Largest drop of the primary metric on validation rows by the compression."""
    check_rows: int = Field(512, ge=16)
    """Validation rows at most that the check of a rung compresses for; the same for every model."""
    promotion: Promotion = Promotion()
    """Promises of the float package that the compressed package must keep."""

    def problems(self) -> Iterable[Problem]:
        """Refuse settings that nothing reads without a compression."""
        if self.after is not None:
            return
        for name, field in type(self).model_fields.items():
            if name != "after" and getattr(self, name) != field.default:
                yield Problem(name, "has no effect without objective.after. Set after: int8.")
