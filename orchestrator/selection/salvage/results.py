"""Typed result of a salvage; light, as the report reads it."""

from collections.abc import Callable

from pydantic import Field

from orchestrator.config import StrictModel


class SalvageTrial(StrictModel):
    """One merge that was measured."""

    model: str
    """The candidate that was merged in."""
    share: float
    """Its share of the merged weights, 0..1."""
    validation: float | None
    """Validation score of the merged weights; null: it is not a number."""
    taken: bool = False
    """Whether the merged weights replaced the ones before."""


class Salvage(StrictModel):
    """Merges that were measured, and those in the published weights."""

    before: float
    """Validation score of the winner alone."""
    after: float
    """Validation score of what is published; equal to ``before`` if nothing helped."""
    test: float | None = None
    """Test score of the merged weights; null if nothing was merged. It decides nothing."""
    trials: tuple[SalvageTrial, ...] = ()
    """Every merge that was measured, in order."""
    seconds: float = 0.0
    """Wall time of all measurements."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Candidates that could not be merged, with the reason."""

    @property
    def merged(self) -> dict[str, float]:
        """Model → share at the time it was merged in, of what is in the published weights."""
        return {trial.model: trial.share for trial in self.trials if trial.taken}

    def in_unit(self, score_of: Callable[[float], float]) -> "Salvage":
        """Return the same with scores in the unit of the metric; the test score is in it."""
        trials = tuple(
            trial
            if trial.validation is None
            else trial.model_copy(update={"validation": score_of(trial.validation)})
            for trial in self.trials
        )
        scores = {"before": score_of(self.before), "after": score_of(self.after)}
        return self.model_copy(update={**scores, "trials": trials})

    def without_merges(self) -> "Salvage":
        """The same measurements, none of them taken."""
        trials = tuple(trial.model_copy(update={"taken": False}) for trial in self.trials)
        return self.model_copy(update={"trials": trials, "after": self.before, "test": None})

    def in_words(self, winner: str) -> str:
        """One line for the log."""
        if not self.merged:
            return f"no merge into {winner} validates better than {self.before:.4f}"
        parts = ", ".join(f"{model} ({share:.0%})" for model, share in self.merged.items())
        return f"{parts} merged into {winner}: validation {self.before:.4f} to {self.after:.4f}"
