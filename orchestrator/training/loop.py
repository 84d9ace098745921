"""The training loop: windows in, events out. Knows no hardware and no stage.

Step t uses the samples, the learning rate and the dropout noise of step t, each a function of the
seed and t alone; a run continued at ``first_step`` is therefore the run that was never stopped.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from orchestrator.data.randomness import derive_seed
from orchestrator.errors import NoLabelsError, StageError
from orchestrator.training.config import TrainConfig
from orchestrator.training.descent import StepFunction, plain_step
from orchestrator.training.engines.engine import Batch, Engine
from orchestrator.training.events import Measurement, Metrics
from orchestrator.training.garbage import collect_after, collected_between_steps
from orchestrator.training.learning_rates import learning_rate
from orchestrator.training.metrics import SKIPPED, StepMetrics, interval_means, read
from orchestrator.training.watchdog import (
    BETWEEN,
    CHECKPOINT,
    EVALUATION,
    STEP,
    STORING,
    Watchdog,
    phase_of,
)

logger = logging.getLogger(__name__)

Observer = Callable[[Measurement], None]
"""Called on every rank with the same numbers."""


class NonFiniteError(StageError):
    """Too many steps in a row had a loss or gradient that is not finite.

    Attributes:
        step: The last of them, from 0.
        first: The first of them.
    """

    def __init__(self, message: str, first: int, step: int) -> None:
        super().__init__(message)
        self.first, self.step = first, step


class WindowSource(Protocol):
    """Source of the samples of a step (``orchestrator.data``'s ``StepSource`` is one)."""

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Micro-batches of one rank for global step ``step`` (from 0)."""
        ...

    def epoch(self, step: int) -> float:
        """Epoch that ``step`` belongs to."""
        ...


@dataclass(slots=True)
class TrainResult:
    """Outcome of a run.

    Attributes:
        steps: Optimizer steps done since step 0, earlier parts of a resumed run included.
        stopped: Whether ``should_stop`` ended it early.
        early_stopped: Whether ``judge`` ended it early.
        skipped: Steps of this part that the loss guard skipped.
        train: Last logged training metrics.
        validation: Last evaluation; empty without one.
        seconds: Wall time of this part.
    """

    steps: int
    stopped: bool = False
    early_stopped: bool = False
    skipped: int = 0
    train: Metrics = field(default_factory=dict)
    validation: Metrics = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks of :func:`train`; each is optional.

    All of them are called on every rank, at the same steps.

    Attributes:
        observer: Gets training metrics every ``log_every_steps`` and every evaluation.
        evaluate: Called every ``eval_every_steps`` and after the last step; not because of an
            early stop. Returns the validation metrics.
        hand_off: Called with the steps done where an evaluation is due before the last step; True:
            it is made elsewhere and reported later, so ``evaluate`` and ``judge`` are not called.
        save: Called with the number of steps done every ``checkpoint_every_steps``, after the
            last step, and when stopping early.
        should_stop: Called after each step; True on one rank stops all of them.
        judge: Called with the steps done and every evaluation, the same numbers on every rank;
            True ends the run (early stopping).
        watchdog: Watches every step and what lies between two of them.
    """

    observer: Observer | None = None
    evaluate: Callable[[], Metrics] | None = None
    hand_off: Callable[[int], bool] | None = None
    save: Callable[[int], None] | None = None
    should_stop: Callable[[], bool] | None = None
    judge: Callable[[int, Metrics], bool] | None = None
    watchdog: Watchdog | None = None


NO_HOOKS = Hooks()


def train(
    engine: Engine,
    source: WindowSource,
    config: TrainConfig,
    *,
    first_step: int = 0,
    until_step: int | None = None,
    seed: int = 0,
    step_fn: StepFunction | None = None,
    hooks: Hooks = NO_HOOKS,
) -> TrainResult:
    """Run optimizer steps from ``first_step`` up to ``max_steps``; collective.

    Args:
        engine: Holds the model; already at ``first_step``.
        source: Samples by step.
        config: Length, schedule, intervals.
        first_step: Steps already done (from a checkpoint).
        until_step: Return before this step although the schedule goes on to ``max_steps``.
        seed: Dropout of step t on rank r depends on (seed, t, r) alone.
        step_fn: Replaces the plain step.
        hooks: Callbacks.

    Raises:
        NonFiniteError: More than ``max_skipped_steps`` steps in a row were not finite.
        NoLabelsError: More than ``max_skipped_steps`` steps in a row had no label.
    """
    run = _Run(engine, source, config, hooks, TrainResult(first_step))
    step_fn = step_fn or plain_step(config.max_grad_norm)
    end = min(config.max_steps, config.max_steps if until_step is None else until_step)
    engine.module.train()
    with collected_between_steps():
        for step in range(first_step, end):
            seed_step(seed, step, engine.rank)
            with phase_of(hooks.watchdog, STEP):
                window = source.window(step, engine.rank, engine.world)
                metrics = run.take(step, step_fn, window)
            with phase_of(hooks.watchdog, BETWEEN):
                run.record(step, metrics)
                if run.conclude(step + 1, end):
                    break
                collect_after(step + 1)
    run.result.seconds = run.seconds
    return run.result


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout of one optimizer step depend on (seed, step, rank) alone.

    So a run that was killed continues bit-equal without generator state in its checkpoint, and the
    noise of a step does not depend on whether an evaluation happened in between.
    """
    torch.manual_seed(derive_seed(seed, "step", step, rank))


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _any_rank(engine: Engine, flag: bool) -> bool:
    # Ranks must agree: one that stopped alone would leave the others in the next collective.
    return bool(engine.sum_over_ranks(torch.tensor([float(flag)])).item() > 0)


class _Run:
    """Bookkeeping of one call: interval means, skipped steps, events."""

    def __init__(
        self,
        engine: Engine,
        source: WindowSource,
        config: TrainConfig,
        hooks: Hooks,
        result: TrainResult,
    ) -> None:
        self.engine, self.source, self.config = engine, source, config
        self.hooks, self.result = hooks, result
        self._interval: list[StepMetrics] = []
        self._unjudged: list[tuple[int, StepMetrics]] = []
        """Steps that the device has decided on, and those after them."""
        self._skipped_in_a_row = self._unlabelled_in_a_row = 0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def take(self, step: int, step_fn: StepFunction, window: Sequence[Batch]) -> StepMetrics:
        """Run one step; if no sample in it has a label, skip it on every rank.

        Raising at once would not help: a resumed run meets the same samples again.
        """
        try:
            metrics = step_fn(self.engine, window, learning_rate(self.config, step))
        except NoLabelsError as error:
            # Not an error at once: a resumed run would read the same samples and fail again.
            self._unlabelled_in_a_row += 1
            if self._unlabelled_in_a_row > self.config.max_skipped_steps:
                raise
            logger.warning("step=%d skipped: %s", step, error)
            return StepMetrics({SKIPPED: 1.0})
        self._unlabelled_in_a_row = 0
        return metrics

    def record(self, step: int, metrics: StepMetrics) -> None:
        """Take one step's metrics; guard against endless non-finite steps.

        What the device has decided is read together with the metrics of the interval. Steps that
        should not have followed are undone: whoever catches the error goes back to a checkpoint,
        which is older than the first of them.
        """
        self._interval.append(metrics)
        self.result.steps = step + 1
        if metrics.is_read(SKIPPED) and not self._unjudged:
            self._judge(step, metrics)
        else:
            self._unjudged.append((step, metrics))

    def _settle(self) -> None:
        """Read what was left on the device, and guard: in the order of the steps."""
        read(self._interval)
        unjudged, self._unjudged = self._unjudged, []
        for step, metrics in unjudged:
            self._judge(step, metrics)

    def _judge(self, step: int, metrics: StepMetrics) -> None:
        if not metrics.get(SKIPPED):
            self._skipped_in_a_row = 0
            return
        self.result.skipped += 1
        if "loss" not in metrics:  # there was nothing to measure
            return
        self._skipped_in_a_row += 1
        logger.warning("step=%d skipped: loss=%s is not finite", step, metrics["loss"])
        if self._skipped_in_a_row > self.config.max_skipped_steps:
            raise NonFiniteError(
                f"step {step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; "
                f"{self._skipped_in_a_row} steps in a row were not finite "
                f"(max_skipped_steps: {self.config.max_skipped_steps}). Lower the learning rate, "
                "lengthen schedule.warmup_steps or clip with max_grad_norm",
                step - self._skipped_in_a_row + 1,
                step,
            )

    def conclude(self, done: int, end: int) -> bool:
        """Log, evaluate and save what is due after ``done`` steps; return whether to stop."""
        hooks, config = self.hooks, self.config
        stop = hooks.should_stop is not None and _any_rank(self.engine, hooks.should_stop())
        last = stop or done == end
        due, saved = _due(done, config.eval_every_steps), _due(done, config.checkpoint_every_steps)
        logged = last or _due(done, config.log_every_steps)
        if logged or due or saved:
            self._settle()  # nothing is measured or stored of a run that is to go back
        if logged:
            self.result.train, self._interval = interval_means(self._interval), []
            self._emit(done, "train", self.result.train)
        if due and done < end and hooks.hand_off is not None:
            with phase_of(hooks.watchdog, STORING):
                due = not hooks.hand_off(done)
        # Whoever asks to stop waits for the checkpoint, and may not wait long.
        if hooks.evaluate is not None and (due or done == end):
            with phase_of(hooks.watchdog, EVALUATION):
                self.result.validation = hooks.evaluate()
            self._emit(done, "validation", self.result.validation)
        if hooks.judge is not None and due:
            with phase_of(hooks.watchdog, STORING):
                stopping = hooks.judge(done, self.result.validation)
            self.result.early_stopped = stopping and done < end
        ending = last or self.result.early_stopped
        if hooks.save is not None and (ending or saved):
            with phase_of(hooks.watchdog, CHECKPOINT):
                hooks.save(done)
        self.result.stopped = stop and done < end
        return ending

    def _emit(self, done: int, split: str, metrics: Metrics) -> None:
        if self.hooks.observer is not None:
            epoch = float(self.source.epoch(done))
            self.hooks.observer(
                Measurement(
                    step=done, epoch=epoch, split=split, metrics=metrics, seconds=self.seconds
                )
            )
