"""The body of every fine-tuning worker. Knows neither Ray nor DeepSpeed."""

import json
from contextlib import ExitStack, closing
from pathlib import Path

from orchestrator.data.prefetch import Prefetch
from orchestrator.errors import StageError
from orchestrator.finetuning.evaluating.report import report_answers
from orchestrator.finetuning.evaluating.results import ANSWERS_FILE, StoredAnswers
from orchestrator.finetuning.inputs import lessons_of, method_of
from orchestrator.finetuning.learning_rate import search_rate
from orchestrator.finetuning.results import (
    ChosenRate,
    Interrupted,
    LaunchResult,
    LearnedTask,
    Summary,
)
from orchestrator.finetuning.state import FinetuneJob, RunState
from orchestrator.modeling.initialization import Values
from orchestrator.modeling.model import Model
from orchestrator.storage import atomic_write_json, read_model, staged
from orchestrator.tasks.base import Answer
from orchestrator.tasks.measure import Measured
from orchestrator.training.config import EarlyStoppingConfig, OptimizerConfig, TrainConfig
from orchestrator.training.curve_parts import CurveParts
from orchestrator.training.early_stopping import BestKeeper
from orchestrator.training.engines.engine import Engine
from orchestrator.training.events import BUILDING, Measurement, RunStarted, Status, loading
from orchestrator.training.finetune.finetuner import FineTuner, Heads, Place
from orchestrator.training.loop import Hooks, NonFiniteError, TrainResult, train
from orchestrator.training.metrics import SKIPPED
from orchestrator.training.watchdog import EVALUATION, STORING, Watchdog
from orchestrator.training.worker_context import WorkerContext, finished_run
from orchestrator.zoo.suite import Figure

EXPORT = "export"
SUMMARY = "summary.json"
RATE = "learning_rate.json"
"""The learning rate that was searched for, so that a resumed run has the same one."""
ADVICE = (
    "the loss or its gradient is not finite. Lower train.learning_rate, raise "
    "train.warmup_fraction, or use engine.precision fp32 or bf16 instead of fp16."
)
NEVER = 10**9
"""Patience of a run that is not stopped early."""


def finetune(context: WorkerContext, job: FinetuneJob) -> LaunchResult:
    """Train from the newest checkpoint on and commit the files of the package; collective."""
    context = context.claimed()
    done = finished_run(context, EXPORT, SUMMARY, Summary)
    if done is not None:
        return LaunchResult(result=done)
    job = _with_rate(context, job)
    with closing(Watchdog(context.hung, job.config.train.hang_timeout_s)) as watchdog:
        with watchdog.phase(BUILDING):
            run = _Run(context, job)
        result = run.train(watchdog)
    if result.stopped:
        return LaunchResult(result=Interrupted(step=result.steps))
    return LaunchResult(result=run.export(result))


def _with_rate(context: WorkerContext, job: FinetuneJob) -> FinetuneJob:
    """Return the job with the learning rate that a search finds, where one is asked for."""
    if job.config.train.learning_rate != "auto":
        return job
    place = context.run_dir / RATE

    def search() -> None:
        if place.is_file():
            return
        config = job.config
        rate, trials = search_rate(
            Path(job.package),
            lessons_of(job),
            config.train.with_rate,
            job.learning_rate,
            config.seed,
            heads=Heads(job.kept, job.renewed),
            place=Place(device=context.device),
            method=method_of(job, context.device),
        )
        found = ChosenRate(learning_rate=rate.value, reason=rate.reason, trials=trials)
        context.require_claim()
        atomic_write_json(place, found.model_dump(mode="json"))

    context.on_rank_zero(search)
    context.barrier()
    chosen = read_model(place, ChosenRate)
    return job.model_copy(update=dict(chosen))


class _Run:
    """One model being fine-tuned on one worker."""

    def __init__(self, context: WorkerContext, job: FinetuneJob) -> None:
        self.context, self.job, self.config = context, job, job.config
        section = job.config.train
        context.emit(Status(message=BUILDING))
        lessons = lessons_of(job)

        def engine(
            model: Model, optimizer: OptimizerConfig, values: Values | None = None
        ) -> Engine:
            return context.build_engine(model, optimizer, job.config.engine, values=values)

        place = Place(
            device=context.device,
            build_engine=engine,
            build_in_parts=engine if job.config.engine.sharding_stage else None,
            world=context.world,
            micro_batch_size=section.micro_batch_size,
            on_rank_zero=context.on_rank_zero,
        )
        self.tuner = FineTuner(
            Path(job.package),
            lessons,
            section.with_rate(job.learning_rate),
            job.config.seed,
            heads=Heads(job.kept, job.renewed),
            place=place,
            method=method_of(job, context.device),
        )
        primary = lessons[0].task.primary
        stopping = EarlyStoppingConfig(
            metric=self.tuner.watched,
            patience=section.patience or NEVER,
            min_delta=section.min_gain,
        )
        every = self.tuner.steps_per_epoch
        self.best = BestKeeper(
            context, self.tuner.engine, every, stopping, primary.higher_is_better
        )
        self.curves = CurveParts(context)
        self.before_s = 0.0
        """Seconds that earlier parts of a resumed run took."""

    @property
    def _plan(self) -> TrainConfig:
        section, every = self.config.train, self.tuner.steps_per_epoch
        return self.tuner.plan.model_copy(
            update={
                "log_every_steps": section.log_every_steps,
                "eval_every_steps": every,
                "checkpoint_every_steps": section.checkpoint_every_steps or every,
            }
        )

    def train(self, watchdog: Watchdog) -> TrainResult:
        """Run the loop from the newest intact checkpoint to the end, then take the best epoch."""
        with watchdog.phase(BUILDING):
            first = self._resume()
        self.context.emit(RunStarted(run=self.config.run.name, step=first))
        history = self.tuner.history
        ended = self.best.exhausted(history)
        hooks = Hooks(
            observer=self._observe,
            evaluate=self.tuner.figures,
            save=self._save,
            should_stop=self.context.should_stop,
            judge=lambda step, _: self.best.judge(history, step),
            watchdog=watchdog,
        )
        result = self._loop(first, first if ended else None, hooks)
        with watchdog.phase(STORING):
            self.context.settle_checkpoint()
        if result.stopped:
            return result
        if not result.validation:  # the last checkpoint was already at the end
            with watchdog.phase(EVALUATION):
                result.validation = self.tuner.figures()
        with watchdog.phase(STORING):
            self.best.restore(history, result)
        return result

    def _loop(self, first: int, until: int | None, hooks: Hooks) -> TrainResult:
        """Run the loop; end the run where nothing more can be learned.

        Going back, as pre-training does, would not help: epochs repeat the same rows, and the
        learning rate would be the same.

        Raises:
            StageError: Loss or gradient stayed infinite or NaN, on every rank.
        """
        tuner = self.tuner
        try:
            with Prefetch(tuner.source) as source:
                result = train(
                    tuner.engine,
                    source,
                    self._plan,
                    first_step=first,
                    until_step=until,
                    seed=self.config.seed,
                    step_fn=tuner.step_fn,
                    hooks=hooks,
                )
        except NonFiniteError as error:
            self.context.settle_checkpoint()
            raise StageError(
                f"step {error.step}: {ADVICE} The last {error.step - error.first + 1} steps in a "
                f"row were not finite; the learning rate is {self.job.learning_rate:g}."
            ) from error
        if first < result.steps == result.skipped + first:
            raise StageError(f"step {result.steps}: {ADVICE} No step was finite.")
        return result

    def _resume(self) -> int:
        """Load the newest intact checkpoint and return its step."""
        checkpoint = self.context.latest_checkpoint(
            lambda found: self.curves.require(found.read(RunState).curves)
        )
        if checkpoint is None:
            self.curves.resume(None)
            return 0
        self.context.emit(loading(checkpoint.step))
        self.tuner.engine.load(checkpoint.path)
        state = checkpoint.read(RunState)
        self.tuner.history = self.curves.resume(state.curves, state.history)
        self.before_s = state.seconds
        return checkpoint.step

    def _observe(self, event: Measurement) -> None:
        more = {"run": self.config.run.name, "seconds": self.before_s + event.seconds}
        event = event.model_copy(update=more)
        self.tuner.history.observe(event)
        self.context.emit(event)

    def _save(self, step: int) -> None:
        position, store_rows = self.curves.extend(self.tuner.history.take())
        state = RunState(curves=position, seconds=self._seconds())
        self.context.begin_checkpoint(step, self.tuner.engine, state, before_commit=store_rows)

    def _seconds(self) -> float:
        rows = self.tuner.history.rows
        return rows[-1].seconds if rows else self.before_s

    def export(self, result: TrainResult) -> Summary:
        """Measure on test rows, write the files of the package, commit the folder; collective."""
        model = self.tuner.whole()

        def write() -> None:
            tested = self.tuner.tested(model)
            summary = self._summary(result, {head: each for head, (_, each) in tested.items()})
            self._describe(tested)
            folder = self.context.run_dir / EXPORT
            with ExitStack() as stack:
                made = stack.enter_context(
                    staged(folder, {"kind": "export", "step": summary.steps})
                )
                self.tuner.write(made, model)
                # Not the JSON of packages, which has no NaN.
                text = json.dumps(summary.model_dump(), indent=1)
                (made / SUMMARY).write_text(text, encoding="utf-8")
                self.context.require_claim()

        self.context.on_rank_zero(write)
        self.context.barrier()
        return read_model(self.context.run_dir / EXPORT / SUMMARY, Summary)

    def _describe(self, tested: dict[str, tuple[list[Answer], Measured]]) -> None:
        """Write what the report shows of the answers; of recordings and images, no text."""
        if not self.config.suite.keep_rows:  # nothing of the rows is to be stored
            return
        heads = {
            lesson.head: report_answers(
                self.tuner.tasks[lesson.head], self.tuner.data.rows("test", index), *found
            )
            for index, lesson in enumerate(self.tuner.lessons)
            for found in [tested[lesson.head]]
        }
        self.context.require_claim()
        atomic_write_json(self.context.run_dir / ANSWERS_FILE, StoredAnswers(heads=heads))

    def _summary(self, result: TrainResult, measured: dict[str, Measured]) -> Summary:
        tuner = self.tuner
        done = max((row.step for row in tuner.history.rows), default=result.steps)
        return Summary(
            steps=done,
            best_step=result.steps,
            steps_per_epoch=tuner.steps_per_epoch,
            watched=tuner.watched,
            validation=result.validation,
            tasks=tuple(
                LearnedTask(
                    task=tuner.tasks[lesson.head].spec,
                    data=planned.data.source,
                    rows={
                        split: len(tuner.data.rows(split, index))
                        for split in ("train", "validation", "test")
                    },
                    primary=lesson.task.primary.name,
                    test={
                        name: Figure(value=each.value, low=each.low, high=each.high)
                        for name, each in measured[lesson.head].metrics.items()
                    },
                )
                for index, (lesson, planned) in enumerate(
                    zip(tuner.lessons, self.job.lessons, strict=True)
                )
            ),
            learning_rate=self.job.learning_rate,
            reason=self.job.reason,
            trials=self.job.trials,
            skipped_steps=int(
                sum(
                    row.value
                    for row in tuner.history.rows
                    if (row.split, row.metric) == ("train", SKIPPED)
                )
            ),
            seconds=self._seconds(),
            world=self.context.world,
        )
