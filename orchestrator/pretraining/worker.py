"""The worker of a pre-training launch. Knows neither Ray nor DeepSpeed.

A worker group trains one model after the other (most launches have one): starting a group costs
more than training a small model. What a model has finished is committed in its run folder, so a
group that is started again continues where the last one was lost.
"""

import json
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path

from orchestrator.data.prefetch import IndexedPrefetch
from orchestrator.data.steps import eval_batches
from orchestrator.errors import StageError
from orchestrator.modeling.package import stream_model
from orchestrator.modeling.tensor_files import SHARD_BYTES
from orchestrator.pretraining.baselines import baselines, pair_baselines
from orchestrator.pretraining.evaluations import EvaluationsBeside
from orchestrator.pretraining.guard import exceeded, first_loss
from orchestrator.pretraining.inputs import PretrainInputs, open_inputs
from orchestrator.pretraining.late_steps import measured_flatness, steps_from
from orchestrator.pretraining.results import GUARD, Interrupted, LaunchResult, Summary
from orchestrator.pretraining.resuming import resumed_at
from orchestrator.pretraining.starting import first_model, origin_of
from orchestrator.pretraining.state import PretrainJob, PretrainPayload, RunState
from orchestrator.pretraining.window_sources import Detour, Meter
from orchestrator.storage import atomic_write_json, staged
from orchestrator.training.curve_parts import CurveParts
from orchestrator.training.early_stopping import BestKeeper
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.optimizers import averaged
from orchestrator.training.engines.precision import COMPUTE
from orchestrator.training.events import (
    BUILDING,
    Measurement,
    RolledBack,
    RunStarted,
    Status,
    loading,
)
from orchestrator.training.history import History, HistoryRow
from orchestrator.training.loop import Hooks, NonFiniteError, TrainResult, train
from orchestrator.training.watchdog import EVALUATION, STORING, Watchdog, beating
from orchestrator.training.worker_context import StoredState, WorkerContext, finished_run
from orchestrator.zoo.flatness import FLATNESS_FILE

EXPORT = "export"
SUMMARY = "summary.json"
HISTORY = "history.parquet"
BASELINE_SAMPLES = 512
"""Samples whose labels are counted for the baselines."""


def pretrain_all(context: WorkerContext, payload: PretrainPayload) -> LaunchResult:
    """Train the models of a launch one after the other.

    Args:
        context: This worker.
        payload: The models.
    """
    found: list[Summary | Interrupted] = []
    for job in payload.jobs:
        found.append(pretrain(context.within(job.run_dir).claimed(job.lease), job))
        if found[-1].stopped:
            break
    return LaunchResult(summaries=tuple(found))


def pretrain(context: WorkerContext, job: PretrainJob) -> Summary | Interrupted:
    """Train one model from the newest checkpoint on and commit its files; collective.

    Returns:
        The summary that is also in the export folder, or where training was stopped.
    """
    done = finished_run(context, EXPORT, SUMMARY, Summary)
    if done is not None:
        return done
    inputs = open_inputs(job)
    with closing(Watchdog(context.hung, inputs.config.train.hang_timeout_s)) as watchdog:
        with watchdog.phase(BUILDING):
            run = _Run(context, inputs, job, watchdog)
        result = run.train()
    return Interrupted(step=result.steps) if result.stopped else run.export(result)


class _Run:
    """One model being trained on one worker."""

    def __init__(
        self, context: WorkerContext, inputs: PretrainInputs, job: PretrainJob, watchdog: Watchdog
    ) -> None:
        self.context, self.inputs, self.watchdog = context, inputs, watchdog
        self.config = config = inputs.config
        weights = {target.name: target.weight for target in inputs.model.target}
        context.emit(Status(message=BUILDING))
        self.history, self.curves = History(), CurveParts(context)
        self.found = context.latest_checkpoint(self._require_curves)
        model, values = first_model(inputs, job.start, self.found)
        self.engine: Engine = context.build_engine(
            model, config.train.optimizer, config.engine, weights, values
        )
        self.before_s = 0.0
        """Seconds that earlier parts of a resumed run took."""
        self.resumed = ""
        """Checkpoint that a resumed run goes on from, in words."""
        self.origin = origin_of(inputs)
        steps, ahead = inputs.steps(), config.prefetch_steps
        self.prefetch = IndexedPrefetch(steps, ahead) if ahead else None
        self.detour = Detour(self.prefetch or steps)
        self.meter = Meter(
            self.detour,
            self.engine,
            inputs.model,
            config.data.block_size,
            COMPUTE[config.engine.precision],
            config.engine.peak_tflops,
            config.train.gradients,
        )
        stopping = config.train.early_stopping
        every = config.train.eval_every_steps
        self.guarded = None if inputs.guard is None else inputs.guarded
        self.best = None if stopping is None else BestKeeper(context, self.engine, every, stopping)

        self.beside = EvaluationsBeside(context, job, self._write_weights, self._evaluated)

    def train(self) -> TrainResult:
        """Run the loop from the newest intact checkpoint to the end."""
        with self.watchdog.phase(BUILDING):
            first = self._resume(self.found) or 0
        self.context.emit(RunStarted(run=self.config.run.name, step=first, message=self.resumed))
        with self.watchdog.phase(BUILDING):
            self._look_back()
        with nullcontext() if self.prefetch is None else closing(self.prefetch):
            result = self._loop(first)
            while isinstance(result, NonFiniteError):
                with self.watchdog.phase(BUILDING):
                    first = self._go_back(result)
                result = self._loop(first)
        if result.stopped:
            return result
        self.beside.settle()
        with self.watchdog.phase(EVALUATION):
            if not result.validation:  # the last checkpoint was already at the end
                result.validation = self._evaluate()
        if self.best is not None:
            with self.watchdog.phase(STORING):
                self.best.restore(self.history, result)
        return result

    def _loop(self, first: int) -> TrainResult | NonFiniteError:
        ended = self._forgot()
        ended |= self.best is not None and self.best.exhausted(self.history)
        self.meter.begin()
        try:
            result: TrainResult | NonFiniteError = train(
                self.engine,
                self.meter,
                self.config.train,
                first_step=first,
                until_step=first if ended else None,
                seed=self.config.seed,
                step_fn=steps_from(self.config.train, first),
                hooks=Hooks(
                    observer=self._observe,
                    evaluate=self._evaluate,
                    hand_off=self.beside.hand_off,
                    save=self._save,
                    should_stop=self.context.should_stop,
                    judge=self._judge,
                    watchdog=self.watchdog,
                ),
            )
        except NonFiniteError as error:
            result = error
        with self.watchdog.phase(STORING):
            self.context.settle_checkpoint()
        return result

    def _judge(self, step: int, metrics: dict[str, float]) -> bool:
        del metrics  # they are in the history
        return (self.best is not None and self.best.judge(self.history, step)) or self._forgot()

    def _resume(self, checkpoint: StoredState | None) -> int | None:
        """Load the newest intact checkpoint and return its step; None: there is none."""
        if checkpoint is None:
            self.curves.resume(None)
            return None
        self.context.emit(loading(checkpoint.step))
        self.engine.load(checkpoint.path)
        state = checkpoint.read(RunState)
        self.history = self.curves.resume(state.curves, state.history, _decides)
        self.before_s = state.seconds
        self.detour.jumps = list(state.jumps)
        self.beside.resume(checkpoint.step, self.history.rows)
        self.resumed = resumed_at(checkpoint, self.context.world, self.inputs.model)
        return checkpoint.step

    def _require_curves(self, checkpoint: StoredState) -> None:
        """Pass over a checkpoint whose curves are damaged; see `latest_checkpoint`."""
        self.curves.require(checkpoint.read(RunState).curves)

    def _go_back(self, error: NonFiniteError) -> int:
        """Return to the last checkpoint, and from there on read other samples."""
        jumps, samples = self.detour.jumps, self.detour.samples(error.first)
        again = len(jumps) < self.config.train.max_rollbacks
        found = self.context.latest_checkpoint(self._require_curves) if again else None
        first = self._resume(found)
        if first is None:
            raise StageError(
                f"{error}. Step {error.first} was the first of them; it read samples {samples}"
            ) from error
        self.detour.jumps = jumps
        self.detour.around(first, error.step)
        message = f"{error}. Going back to step {first}, around samples {samples} and what follows"
        self.context.emit(RolledBack(step=first, message=message))
        return first

    def _observe(self, event: Measurement) -> None:
        metrics = event.metrics
        if event.split == "train":
            metrics = metrics | self.meter.read(event.seconds)
        more = {"run": self.config.run.name, "seconds": self.before_s + event.seconds}
        event = event.model_copy(update={**more, "metrics": metrics})
        self.history.observe(event)
        self.context.emit(event)
        if event.split == "train":
            self.beside.collect()

    def _evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Take the figures of an evaluation beside training."""
        epoch, seconds = float(self.meter.epoch(step)), self._seconds() - self.before_s
        self._observe(
            Measurement(
                step=step, epoch=epoch, split="validation", metrics=metrics, seconds=seconds
            )
        )

    def _evaluate(self) -> dict[str, float]:
        section = self.config.train
        batches = eval_batches(
            self.inputs.held_out, section.eval_batch_size, self.engine.rank, self.engine.world
        )
        with averaged(self.engine):
            return self.engine.evaluate(batches) | self._remembered()

    def _remembered(self) -> dict[str, float]:
        """Return the loss over the guard's text, if there is a guard; collective."""
        if self.guarded is None:
            return {}
        size, engine = self.config.train.eval_batch_size, self.engine
        batches = eval_batches(self.guarded, size, engine.rank, engine.world)
        return {GUARD: engine.evaluate(batches)["loss"]}

    def _forgot(self) -> bool:
        return self.guarded is not None and exceeded(self.config, self.history.rows)

    def _look_back(self) -> None:
        """Measure the guard's text before the first step."""
        if self.guarded is not None and first_loss(self.history.rows) is None:
            metrics = self._remembered()
            self._observe(
                Measurement(step=0, epoch=0.0, split="validation", metrics=metrics, seconds=0.0)
            )

    def _save(self, step: int) -> None:
        position, store_rows = self.curves.extend(self.history.take())
        self.history.forget(_decides)
        state = RunState(
            **dict(self.origin),
            curves=position,
            seconds=self._seconds(),
            jumps=tuple(self.detour.jumps),
        )
        with self.meter.saving():
            keep_every = self.config.train.keep_every_steps
            self.context.begin_checkpoint(step, self.engine, state, keep_every, store_rows)

    def _seconds(self) -> float:
        return self.history.rows[-1].seconds if self.history.rows else self.before_s

    def export(self, result: TrainResult) -> Summary:
        """Write model, history and summary from rank 0 and commit the folder; collective.

        Raises:
            StageError: Rank 0 could not write; nothing of it is left on a disk that is full.
        """
        with ExitStack() as stack:
            folder = None
            if self.context.rank == 0:
                manifest = {"kind": "export", "step": result.steps}
                folder = stack.enter_context(staged(self.context.run_dir / EXPORT, manifest))
            self._write_weights(folder)
            summary = self._summary(result)
            train, held_out = self.config.train, self.inputs.held_out
            flatness = measured_flatness(train, self.engine, held_out, result.steps)
            if folder is not None:
                if flatness is not None:
                    atomic_write_json(folder / FLATNESS_FILE, flatness)
                self.curves.whole(self.history).to_parquet(folder / HISTORY, index=False)
                # Not the JSON of packages, which has no NaN: a figure that diverged is read back.
                text = json.dumps(summary.model_dump(), indent=1)
                (folder / SUMMARY).write_text(text, encoding="utf-8")

            def commit() -> None:
                self.context.require_claim()
                stack.close()
                self.context.publish(EXPORT)

            self.context.on_rank_zero(commit)
        return summary

    def _write_weights(self, folder: Path | None) -> None:
        """Gather the weights on all ranks and write them where there is a folder."""
        with averaged(self.engine):
            tensors = beating(self.engine.state_dict())
            if folder is not None:
                stream_model(folder, tensors, self.inputs.model, SHARD_BYTES)
            else:
                deque(tensors, maxlen=0)  # gathering each tensor is collective

    def _summary(self, result: TrainResult) -> Summary:
        inputs, world = self.inputs, self.context.world
        guessed = baselines(self.config, inputs.train, inputs.held_out, BASELINE_SAMPLES)
        guessed |= pair_baselines(self.config, len(inputs.held_out), world)
        return Summary(
            step=result.steps,
            skipped_steps=_skipped_steps(self.history.rows),
            rollbacks=len(self.detour.jumps),
            train=result.train,
            validation=result.validation,
            unigram_entropy=inputs.corpus.unigram_entropy(),
            baselines=guessed,
            seconds=self._seconds(),
            world=world,
            guard_before=None if self.guarded is None else first_loss(self.history.rows),
            shard_elements=sum(s.master.numel() for s in self.engine.shards()),
        )


def _decides(row: HistoryRow) -> bool:
    """Whether a row is needed after it has been stored: an evaluation, or a skipped step."""
    return row.split != "train" or (row.metric == "skipped" and row.value > 0)


def _skipped_steps(rows: Sequence[HistoryRow]) -> int:
    """Return how many steps the loss guard skipped, over all parts of a run."""
    train = (row for row in rows if row.split == "train" and row.metric == "skipped")
    return int(sum(row.value for row in train))
