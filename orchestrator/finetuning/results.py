"""Results of fine-tuning: what workers return, and what a package keeps of it.

Light: read by the report and the demo, so nothing here imports torch or ray.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from orchestrator.config import StrictModel
from orchestrator.zoo.suite import Figure, Number, TaskSpec

EVALUATION = "evaluation/finetuning.json"
"""Place of the `FinetuneEvaluation` in a package."""


class LearnedTask(StrictModel):
    """One task after training."""

    task: TaskSpec
    """The task, with what was chosen on validation rows."""
    data: str
    """Source of its rows."""
    rows: dict[str, int]
    """Rows of each split that were used."""
    primary: str
    """The metric that decides."""
    test: dict[str, Figure]
    """Every metric on test rows."""


class RateTrial(StrictModel):
    """One learning rate that ``learning_rate: auto`` tried."""

    model_config = ConfigDict(allow_inf_nan=True)

    learning_rate: float
    """Peak."""
    scores: tuple[Number, ...]
    """Primary metric on validation rows after each round."""
    steps: int
    """Optimizer steps it cost."""


class EpochScore(StrictModel):
    """One epoch of a trial of a grid search."""

    model_config = ConfigDict(allow_inf_nan=True)

    value: float
    """Primary metric on validation rows."""
    loss: float
    """Loss on validation rows."""
    higher_is_better: bool
    """Direction of the primary metric."""
    steps: int
    """Optimizer steps of the epoch."""
    seconds: float
    """Its wall time."""


class GridValues(StrictModel):
    """One combination of a grid search."""

    learning_rate: float
    """Peak."""
    global_batch_size: int
    """Rows of one step."""
    epochs: int
    """Passes over the training rows."""


class GridTrialResult(StrictModel):
    """One trial of a grid search."""

    model_config = ConfigDict(allow_inf_nan=True)

    values: GridValues
    """Values that it trained with."""
    scores: tuple[Number, ...]
    """Primary metric on validation rows after each epoch."""
    loss: Number
    """Lowest loss on validation rows; NaN without an epoch."""
    steps: int
    """Optimizer steps it cost."""
    seconds: float
    """Time it cost."""
    error: str | None = None
    """Reason why it failed."""


class GridResult(StrictModel):
    """A finished grid search."""

    trials: tuple[GridTrialResult, ...]
    """All trials, the best first: the run itself trains with its values."""


class ChosenRate(StrictModel):
    """``learning_rate.json`` of a run whose learning rate was searched for."""

    learning_rate: float
    """Peak."""
    reason: str
    """Reason of the choice."""
    trials: tuple[RateTrial, ...]
    """Rates that were tried."""


class Interrupted(StrictModel):
    """A run that was stopped after a checkpoint."""

    stopped: Literal[True] = True
    """Distinguishes it from a `Summary`."""
    step: int
    """Optimizer steps done."""


class Summary(StrictModel):
    """A finished run in figures, as its workers measured them: ``export/summary.json``."""

    model_config = ConfigDict(allow_inf_nan=True)

    schema_version: Literal[1] = 1
    """Version of this layout."""
    stopped: Literal[False] = False
    """Distinguishes it from `Interrupted`."""
    steps: int
    """Optimizer steps done."""
    best_step: int
    """Step of the weights that were taken."""
    steps_per_epoch: int
    """Optimizer steps of one epoch."""
    watched: str
    """The metric that decided which epoch is the best."""
    validation: dict[str, Number]
    """Metrics of the best epoch on validation rows."""
    tasks: tuple[LearnedTask, ...]
    """The tasks in order; the first one's head is the default."""
    learning_rate: float
    """Peak."""
    reason: str
    """Reason of the choice."""
    trials: tuple[RateTrial, ...] = ()
    """Rates that were tried."""
    skipped_steps: int = 0
    """Steps that were not taken because their loss or gradient was not finite."""
    seconds: float
    """Time trained, over all parts of a resumed run."""
    world: int
    """Number of workers."""


Trained = Annotated[Summary | Interrupted, Field(discriminator="stopped")]


class LaunchResult(StrictModel):
    """Result of the workers of a launch."""

    result: Trained
    """The summary, or where training was stopped."""

    @property
    def stopped(self) -> bool:
        """Whether training ended before it was finished."""
        return self.result.stopped


class FinetuneEvaluation(Summary):
    """``evaluation/finetuning.json`` of a package."""

    parent: str
    """Package that training began with."""
    teacher: str | None = None
    """Package that was distilled."""
    grid: tuple[GridTrialResult, ...] = ()
    """Trials of ``search``, the best first."""
    unknown_shares: dict[str, float] = Field(default_factory=dict)
    """Share of training tokens that the tokenizer does not know, by head."""
    dropped_heads: tuple[str, ...] = ()
    """Heads of the parent that the package does not have any more."""
    kept_heads: tuple[str, ...] = ()
    """Heads of the parent that stay untrained."""

    def figures(self) -> dict[str, float | int | str]:
        """Return the figures of the result line and the manifest."""
        found: dict[str, float | int | str] = {}
        for index, each in enumerate(self.tasks):
            value = each.test[each.primary].value
            if not index:
                found[each.primary] = value
            if len(self.tasks) > 1:
                found[f"{each.primary}.{each.task.head}"] = value
        return found | {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "best_step": self.best_step,
            "skipped_steps": self.skipped_steps,
            "search_steps": sum(trial.steps for trial in self.trials)
            + sum(trial.steps for trial in self.grid),
            "seconds": round(self.seconds, 1),
            "workers": self.world,
        }
