"""Results of pre-training: what workers return, and what a package keeps of it.

Light: read by the report and the demo, so nothing here imports torch or ray.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from orchestrator.config import StrictModel

EVALUATION = "evaluation/pretraining.json"
"""Place of the `Evaluation` in a package."""
GUARD = "guard.loss"
"""Loss over the guard's text among the figures of a validation."""
MAX_NATS = 50.0
"""Losses above this are not shown as perplexity: its exponential would not fit a float."""


Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A measured number; JSON in a package holds null for one that is not finite."""


class Measured(StrictModel):
    """Base of measured figures: a loss that diverged is NaN or infinite, and stays so."""

    model_config = ConfigDict(allow_inf_nan=True)


class Interrupted(StrictModel):
    """A model whose training was stopped after a checkpoint."""

    stopped: Literal[True] = True
    """Distinguishes it from a `Summary`."""
    step: int
    """Optimizer steps done."""


class Summary(Measured):
    """A trained model in figures, as its workers measured them: ``export/summary.json``."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    stopped: Literal[False] = False
    """Distinguishes it from `Interrupted`."""
    step: int
    """Optimizer steps done."""
    skipped_steps: int
    """Steps that the loss guard skipped."""
    rollbacks: int
    """Number of times that the run went back to a checkpoint."""
    train: dict[str, float]
    """Metrics of the last training interval."""
    validation: dict[str, float]
    """Metrics on held-out samples; ``loss.<target>`` and ``accuracy.<target>`` of each target."""
    unigram_entropy: float | None
    """Loss of knowing only how often answers occur; null for pairs, which are found."""
    baselines: dict[str, float]
    """``loss.<target>`` and ``accuracy.<target>`` of guessing without the input."""
    seconds: float
    """Time trained, over all parts of a resumed run."""
    world: int
    """Number of workers."""
    shard_elements: int
    """Parameters whose master copy rank 0 holds."""
    guard_before: float | None = None
    """Loss over the guard's text before the first step."""


Trained = Annotated[Summary | Interrupted, Field(discriminator="stopped")]


class LaunchResult(StrictModel):
    """Results of the workers of a launch: one per model they began."""

    summaries: tuple[Trained, ...]
    """In the order of the jobs; the last one may be `Interrupted`."""

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped the launch before all models were trained."""
        return any(isinstance(each, Interrupted) for each in self.summaries)


class Figures(Measured):
    """The figures of a finished run: in its result, its manifest and its evaluation.

    Further targets of a model add ``loss.<target>``, ``accuracy.<target>`` and the baselines of
    both, ``baseline_loss.<target>`` and ``baseline_accuracy.<target>``.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Figure]

    loss: Figure
    """Validation loss over all targets, in nats."""
    accuracy: Figure
    """Accuracy of the first target."""
    perplexity: float | None = None
    """Exponential of the first target's loss; null where neither a class nor a token is chosen."""
    baseline_loss: Figure
    """Loss of the first target without the input."""
    baseline_accuracy: Figure
    """Accuracy of the first target without the input."""
    unigram_entropy: float | None = None
    """As in `Summary`."""
    steps: int
    """As ``step`` in `Summary`."""
    skipped_steps: int | None = None
    """As in `Summary`; packages of earlier versions do not say."""
    rollbacks: int | None = None
    """As in `Summary`; packages of earlier versions do not say."""
    seconds: float
    """As in `Summary`, to a tenth."""
    workers: int
    """As ``world`` in `Summary`."""
    documents: int
    """Documents, rows or examples of both splits."""
    tokens: int
    """Tokens of both splits; 0 where there are none."""
    unknown_share: float | None = None
    """Share of tokens that the tokenizer does not know; null where there are none."""


class Evaluation(Figures):
    """``evaluation/pretraining.json`` of a package."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    data: str
    """Title of the data."""
    split: Literal["validation"] = "validation"
    """Split that the figures were measured on."""


def figures_of(
    summary: Summary,
    targets: Sequence[str],
    *,
    chooses: bool,
    documents: int,
    tokens: int,
    unknown_share: float | None = None,
) -> Figures:
    """Return the figures of a run.

    Args:
        summary: What the workers measured.
        targets: Names of the targets that were trained; the first one's figures have plain names.
        chooses: Whether the first target chooses a class or a token, so that its loss has a
            perplexity.
        documents: As in `Figures`.
        tokens: As in `Figures`.
        unknown_share: As in `Figures`.
    """
    first, *others = targets
    validation, guessed = summary.validation, summary.baselines
    more = {}
    if summary.guard_before is not None:
        losses = (summary.guard_before, validation[GUARD])
        more = {"baseline_guard_loss": losses[0], "guard_loss": losses[1]}
    for key in (f"{figure}.{name}" for name in others for figure in ("loss", "accuracy")):
        more[key] = validation[key]
        if key in guessed:
            more[f"baseline_{key}"] = guessed[key]
    return Figures(
        loss=validation["loss"],
        accuracy=validation[f"accuracy.{first}"],
        perplexity=math.exp(min(validation[f"loss.{first}"], MAX_NATS)) if chooses else None,
        baseline_loss=guessed[f"loss.{first}"],
        baseline_accuracy=guessed[f"accuracy.{first}"],
        unigram_entropy=summary.unigram_entropy,
        steps=summary.step,
        skipped_steps=summary.skipped_steps,
        rollbacks=summary.rollbacks,
        seconds=round(summary.seconds, 1),
        workers=summary.world,
        documents=documents,
        tokens=tokens,
        unknown_share=unknown_share,
        **more,
    )
