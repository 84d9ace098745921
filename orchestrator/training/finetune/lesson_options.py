"""Options of lessons in configs. Imports without torch."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, PositiveFloat

from orchestrator.config import StrictModel
from orchestrator.errors import Problem

ClassWeights = Literal["none", "balanced"] | dict[str, float]
"""Weights of the classes in the loss: none; inversely to their frequency; or by name."""


class AdversarialConfig(StrictModel):
    """Learn every step at a word table that was moved to raise the loss, too."""

    type: Literal["fgm", "pgd"] = "fgm"
    """fgm: one move by epsilon; pgd: several moves by alpha, at most epsilon away."""
    epsilon: PositiveFloat = 1.0
    """Distance of the moved table from the table."""
    alpha: PositiveFloat = 0.3
    """Length of one move (pgd)."""
    steps: int = Field(3, ge=1)
    """Number of moves (pgd); each costs as much as an ordinary step."""

    @property
    def moves(self) -> int:
        """Number of moves."""
        return 1 if self.type == "fgm" else self.steps

    @property
    def stride(self) -> float:
        """Length of one move."""
        return self.epsilon if self.type == "fgm" else self.alpha

    def problems(self) -> Iterable[Problem]:
        """Only pgd moves several times."""
        for name in ("alpha", "steps"):
            if self.type == "fgm" and name in self.model_fields_set:
                yield Problem(name, "has no effect with type: fgm. Remove it.")
