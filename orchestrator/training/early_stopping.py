"""Early stopping: the best evaluation, its checkpoint, and the return to it at the end of a run."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.config import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.training.config import EarlyStoppingConfig
from orchestrator.training.engines.engine import Engine
from orchestrator.training.events import Metrics
from orchestrator.training.history import History
from orchestrator.training.loop import TrainResult
from orchestrator.training.worker_context import WorkerContext

logger = logging.getLogger(__name__)

HIGHER_IS_BETTER = ("accuracy",)
"""Prefixes of the names of metrics to maximize; all others are minimized."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation of a run.

    Attributes:
        step: Steps done when it was made; -1 before the first.
        value: The metric then.
        since: Evaluations after it.
    """

    step: int = -1
    value: float = float("nan")
    since: int = 0


def best_of(
    evaluations: Iterable[tuple[int, float]],
    config: EarlyStoppingConfig,
    higher_is_better: bool | None = None,
) -> Best:
    """Return the best of (steps done, value) in order; a tie or a gain below min_delta is none.

    Any number is better than none: a first evaluation that is not a number would never be beaten.

    Args:
        evaluations: In order of steps.
        config: What is watched, and which gain counts.
        higher_is_better: Which direction is better; None: it follows from the metric's name.
    """
    if higher_is_better is None:
        higher_is_better = config.metric.startswith(HIGHER_IS_BETTER)
    sign = 1.0 if higher_is_better else -1.0
    best = Best()
    for step, value in evaluations:
        first_number = math.isnan(best.value) and not math.isnan(value)
        gained = sign * (value - best.value) > config.min_delta
        if best.step < 0 or first_number or gained:
            best = Best(step, value)
        else:
            best = Best(best.step, best.value, best.since + 1)
    return best


FOLDER = "best"
"""Run folder below the run's own in which the best checkpoint lies."""


class BestState(StrictModel):
    """State beside the best weights of a run."""

    validation: Metrics
    """Their evaluation."""


class BestKeeper:
    """Early stopping over the curve in a run's history, also that of its earlier parts.

    Args:
        context: This worker.
        engine: What to keep.
        every: Steps between two evaluations.
        stopping: What is watched, and how long.
        higher_is_better: Direction of what is watched; None: by its name.
    """

    def __init__(
        self,
        context: WorkerContext,
        engine: Engine,
        every: int,
        stopping: EarlyStoppingConfig,
        higher_is_better: bool | None = None,
    ) -> None:
        self.context = context.within(context.run_dir / FOLDER)
        self.engine, self.every, self.stopping = engine, every, stopping
        self.higher_is_better = higher_is_better

    def best(self, history: History) -> Best:
        """Return the best evaluation; those that an interruption made are not counted."""
        rows = (
            (row.step, row.value)
            for row in history.rows
            if row.split == "validation" and row.metric == self.stopping.metric
        )
        counted = ((step, value) for step, value in rows if not step % self.every)
        return best_of(counted, self.stopping, self.higher_is_better)

    def exhausted(self, history: History) -> bool:
        """Return whether the evaluations have stopped improving."""
        return self.best(history).since >= self.stopping.patience

    def judge(self, history: History, step: int) -> bool:
        """Keep the weights if the evaluation after ``step`` steps is the best; collective.

        Returns:
            Whether the run should end.
        """
        if self.best(history).step == step:
            rows = (row for row in history.rows if row.split == "validation")
            measured = {row.metric: row.value for row in rows if row.step == step}
            self.context.commit_checkpoint(step, self.engine, BestState(validation=measured))
        return self.exhausted(history)

    def restore(self, history: History, result: TrainResult) -> None:
        """Go back to the best weights, and say so in ``result``; collective.

        What is kept is not always what the history says: the run may have gone back before it and
        on with other samples, or it was found damaged and the one before it is taken. So the
        evaluation is the one beside the weights.
        """
        try:
            found = self.context.latest_checkpoint()
        except IntegrityError as error:  # on every rank; the last weights are not lost with them
            logger.warning("the last weights are kept instead of the best ones: %s", error)
            return
        if found is None or self.best(history).step == found.step == result.steps:
            return
        self.engine.load(found.path)
        result.validation, result.steps = found.read(BestState).validation, found.step
