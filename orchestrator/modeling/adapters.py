"""Options of low-rank adapters. Imports without torch."""

from collections.abc import Iterable

from pydantic import Field, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.errors import Problem


class LoraConfig(StrictModel):
    """Train a low-rank change of some linear layers instead of all weights (Hu et al. 2021)."""

    layers: tuple[str, ...] = ("*.attention.query", "*.attention.value")
    """Names of linear layers, with `*`, `?` and `[a-z]`; `*` alone takes all below the heads."""
    rank: PositiveInt = 8
    """Rank r of the change."""
    alpha: PositiveFloat = 16.0
    """The change is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate on what the change reads."""
    rank_stabilised: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023)."""
    train: tuple[str, ...] = ("targets",)
    """Parameters that are trained as well, by name; the heads, as a rule."""

    @property
    def scale(self) -> float:
        """Factor on the change."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)

    def problems(self) -> Iterable[Problem]:
        """There must be something to adapt."""
        if not self.layers:
            yield Problem("layers", "is empty. Name linear layers, for example *.attention.query.")
