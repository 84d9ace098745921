"""Typed results of a replay."""

from typing import Literal

from orchestrator.config import StrictModel
from orchestrator.selection.costs.results import Ledger
from orchestrator.selection.results import RankedModel, Rung


class ReplayResult(StrictModel):
    """Outcome of one method on one target."""

    schema_version: Literal[1] = 1
    """Format."""
    target: str
    """The data set left out of the history."""
    method: str
    """The method that was asked for."""
    policy: str | None
    """Halving policy that decided (with little history not the one asked for); null without one."""
    seed: int
    """Seed of everything random."""
    winner: str
    """The model the method chose."""
    ranking: tuple[RankedModel, ...]
    """All models with values on the target, best first, with reasons."""
    rungs: tuple[Rung, ...]
    """Models trained in each epoch."""
    ledger: Ledger
    """Cost, proxy passes included."""
    best: str | None
    """The model with the best final test score; null without test scores."""
    regret: float | None
    """Best test score minus the winner's; null where the winner's is not stored."""
    recall_regret: float | None
    """Best test score minus that of the best recalled model; null as `regret`."""
    epochs: int
    """Fine-tuning epochs paid."""
    pool_sizes: tuple[int, ...]
    """Models trained in each rung."""
    warnings: tuple[str, ...]
    """Warnings to read before trusting the result."""


class ReplaySummary(StrictModel):
    """Averages over the targets of a replay; regrets over the targets that have one."""

    targets: int
    """Number of targets."""
    mean_regret: float | None
    """Mean regret."""
    median_regret: float | None
    """Median regret."""
    mean_epochs: float
    """Mean cost in epochs, proxy passes included."""
    max_epochs: float
    """Largest cost."""
    recall: float | None
    """Share of targets whose best model was recalled."""
    mean_recall_regret: float | None
    """Mean regret of the best recalled model."""
    brute_force_epochs: float
    """Mean cost of training every model to the end."""
