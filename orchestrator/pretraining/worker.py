"""What every worker of a pre-training launch does. Knows neither Ray nor DeepSpeed.

A worker group trains one model after the other (most launches have one): starting a group costs
more than training a small model. What a model has finished is committed in its run folder, so a
group that was started again goes on where the last one was lost.
"""

import json
from collections import deque
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from orchestrator.data.prefetch import Prefetch
from orchestrator.data.steps import StepSource, eval_batches
from orchestrator.errors import IntegrityError, StageError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.lora import freeze
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import stream_model
from orchestrator.modeling.tensor_files import SHARD_BYTES
from orchestrator.pretraining.baselines import baselines, pair_baselines
from orchestrator.pretraining.best import BestKeeper
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import (
    AnyCorpus,
    HeldOut,
    open_inputs,
    samples_of,
    vocabulary,
)
from orchestrator.pretraining.meter import Meter
from orchestrator.pretraining.outcome import skipped_steps
from orchestrator.pretraining.plan import with_vocabulary
from orchestrator.pretraining.starting import description, take_weights
from orchestrator.storage import read_json, staged, verify_folder
from orchestrator.training.averaging import averaged
from orchestrator.training.detour import Detour
from orchestrator.training.engine import Engine
from orchestrator.training.history import History
from orchestrator.training.loop import Hooks, NonFiniteError, TrainResult, train
from orchestrator.training.precision import COMPUTE
from orchestrator.training.seeding import derive_seed
from orchestrator.training.watchdog import Watchdog
from orchestrator.training.workers import WorkerGroup

EXPORT = "export"
SUMMARY = "summary.json"
HISTORY = "history.parquet"
BASELINE_SAMPLES = 512  # whose labels are counted


def pretrain_all(context: WorkerGroup, payload: dict[str, Any]) -> dict[str, Any]:
    """Train the models of a launch one after the other.

    Args:
        context: This worker.
        payload: ``{"jobs": [{"config", "corpus", "run_dir"}]}``; a job may have ``start``, the
            folder of a package whose weights it begins with.

    Returns:
        ``{"summaries": [...]}``, one a finished job; ``stopped`` says that one was interrupted.
    """
    summaries = []
    for job in payload["jobs"]:
        summary = pretrain(context.within(Path(job["run_dir"])).claimed(), job)
        summaries.append(summary)
        if summary["stopped"]:
            return {"summaries": summaries, "stopped": True}
    return {"summaries": summaries, "stopped": False}


def pretrain(context: WorkerGroup, job: dict[str, Any]) -> dict[str, Any]:
    """Train one model from the newest checkpoint on and commit its files; collective.

    Returns:
        The summary that is also in the export folder, with ``stopped`` and ``step``.
    """
    config = PretrainConfig.model_validate(job["config"])
    done = _exported(context)
    if done is not None:
        return done
    run = _Run(context, config, open_inputs(Path(job["corpus"])), job.get("start"))
    result = run.train()
    if result.stopped:
        return {"stopped": True, "step": result.steps}
    return run.export(result)


def _exported(context: WorkerGroup) -> dict[str, Any] | None:
    """Return the summary of a model that is already finished, on every rank alike."""
    folder = context.run_dir / EXPORT

    def read() -> dict[str, Any] | None:
        if not folder.is_dir():
            return None
        try:
            verify_folder(folder)
            found: dict[str, Any] = read_json(folder / SUMMARY)
        except IntegrityError as error:
            context.emit({"event": "damaged_export", "message": str(error)})
            return None
        return found

    summary = context.on_first(read)
    if not context.agree(int(summary is not None)):
        return None
    return summary or {"stopped": False}


def _first_model(config: PretrainConfig, model_config: ModelConfig, start: str | None) -> Model:
    """Return the model as it is before the first step: new, or with the weights of a package."""
    torch.manual_seed(derive_seed(config.seed, "model"))
    model = build_model(model_config)
    if start is not None:
        take_weights(model, Path(start))
    freeze(model, config.train.freeze)
    return model


class _Run:
    """One model being trained on one worker."""

    def __init__(
        self,
        context: WorkerGroup,
        config: PretrainConfig,
        corpus: AnyCorpus,
        start: str | None = None,
    ) -> None:
        self.context, self.config, self.corpus = context, config, corpus
        self.model_config: ModelConfig = with_vocabulary(config, vocabulary(corpus))
        model = _first_model(config, self.model_config, start)
        weights = {target.name: target.weight for target in self.model_config.target}
        self.engine: Engine = context.build_engine(
            model, config.train.optimizer, config.engine, weights
        )
        self.samples = samples_of(config, corpus, corpus.train)
        held_out = samples_of(config, corpus, corpus.validation)
        self.held_out = HeldOut(held_out, config.train.eval_blocks)
        self.description = description(config, self.model_config, corpus.processor)
        self.history = History()
        self.before_s = 0.0  # what earlier parts of a resumed run took
        self.source = Prefetch(self._steps(), config.prefetch_steps)
        self.detour = Detour(self.source)
        self.meter = Meter(
            self.detour,
            self.engine,
            self.model_config,
            config.data.block_size,
            COMPUTE[config.engine.precision],
        )
        stopping = config.train.early_stopping
        self.best = (
            None if stopping is None else BestKeeper(context, self.engine, config.train, stopping)
        )

    def _steps(self) -> StepSource:
        return StepSource(
            self.samples,
            self.config.train.global_batch_size,
            self.config.train.micro_batch_size,
            derive_seed(self.config.seed, "order"),
            self.config.data.weights,
        )

    def train(self) -> TrainResult:
        """Run the loop from the newest intact checkpoint to the end."""
        first = self._resume() or 0
        self.context.emit({"event": "training", "run": self.config.run.name, "step": first})
        patience_s = self.config.train.hang_timeout_s
        with closing(self.source), closing(Watchdog(self.context.hung, patience_s)) as watchdog:
            result = self._loop(first, watchdog)
            while isinstance(result, NonFiniteError):
                result = self._loop(self._go_back(result), watchdog)
        if result.stopped:
            return result
        if not result.validation:  # the last checkpoint was already at the end
            result.validation = self._evaluate()
        if self.best is not None:
            self.best.restore(self.history, result)
        return result

    def _loop(self, first: int, watchdog: Watchdog) -> TrainResult | NonFiniteError:
        ended = self.best is not None and self.best.exhausted(self.history)
        self.meter.begin()
        try:
            result: TrainResult | NonFiniteError = train(
                self.engine,
                self.meter,
                self.config.train,
                first_step=first,
                until_step=first if ended else None,
                seed=self.config.seed,
                hooks=Hooks(
                    observer=self._observe,
                    evaluate=self._evaluate,
                    save=self._save,
                    should_stop=self.context.should_stop,
                    judge=self._judge,
                    watchdog=watchdog,
                ),
            )
        except NonFiniteError as error:
            result = error
        self.context.settle_checkpoint()
        return result

    def _judge(self, step: int, metrics: dict[str, float]) -> bool:
        del metrics  # they are in the history
        return self.best is not None and self.best.judge(self.history, step)

    def _resume(self) -> int | None:
        """Load the newest intact checkpoint and return its step; None: there is none."""
        checkpoint = self.context.latest_checkpoint()
        if checkpoint is None:
            return None
        self.engine.load(checkpoint.path)
        self.history = History(checkpoint.extra["history"])
        self.before_s = float(checkpoint.extra["seconds"])
        self.detour.jumps = checkpoint.extra.get("jumps", [])
        return checkpoint.step

    def _go_back(self, error: NonFiniteError) -> int:
        """Return to the last checkpoint, and from there on read other samples."""
        jumps, samples = self.detour.jumps, self.detour.samples(error.first)
        first = self._resume() if len(jumps) < self.config.train.max_rollbacks else None
        if first is None:
            raise StageError(
                f"{error}. Step {error.first} was the first of them; it read samples {samples}"
            ) from error
        self.detour.jumps = jumps
        self.detour.around(first, error.step)
        message = f"{error}. Going back to step {first}, around samples {samples} and what follows"
        self.context.emit({"event": "rollback", "step": first, "message": message})
        return first

    def _observe(self, event: dict[str, Any]) -> None:
        if event["split"] == "train":
            event = {**event, "metrics": event["metrics"] | self.meter.read(event["seconds"])}
        event = {**event, "seconds": self.before_s + event["seconds"]}
        self.history.observe(event)
        self.context.emit({"event": "metrics", "run": self.config.run.name, **event})

    def _evaluate(self) -> dict[str, float]:
        section = self.config.train
        batches = eval_batches(
            self.held_out, section.eval_batch_size, self.engine.rank, self.engine.world
        )
        with averaged(self.engine):
            return self.engine.evaluate(batches)

    def _save(self, step: int) -> None:
        extra = {"history": self.history.rows, "seconds": self._seconds()}
        extra |= {"jumps": self.detour.jumps, **self.description}
        with self.meter.saving():
            keep_every = self.config.train.keep_every_steps
            self.context.begin_checkpoint(step, self.engine, extra, keep_every)

    def _seconds(self) -> float:
        return float(self.history.rows[-1]["seconds"]) if self.history.rows else self.before_s

    def export(self, result: TrainResult) -> dict[str, Any]:
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
            if folder is not None:
                self.history.to_parquet(folder / HISTORY)
                (folder / SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")

            def commit() -> None:
                self.context.require_claim()
                stack.close()

            self.context.on_first(commit)
        return summary

    def _write_weights(self, folder: Path | None) -> None:
        """Gather the weights on all ranks and write them where there is a folder."""
        with averaged(self.engine):
            tensors = self.engine.state_dict()
            if folder is not None:
                stream_model(folder, tensors, self.model_config, SHARD_BYTES)
            else:
                deque(tensors, maxlen=0)  # gathering each tensor is collective

    def _summary(self, result: TrainResult) -> dict[str, Any]:
        return {
            "stopped": False,
            "step": result.steps,
            "skipped_steps": skipped_steps(self.history.rows),
            "rollbacks": len(self.detour.jumps),
            "train": result.train,
            "validation": result.validation,
            "unigram_entropy": self.corpus.unigram_entropy(),
            "baselines": baselines(self.config, self.samples, self.held_out, BASELINE_SAMPLES)
            | pair_baselines(self.config, len(self.held_out), self.context.world),
            "seconds": self._seconds(),
            "world": self.context.world,
            "shard_elements": sum(s.master.numel() for s in self.engine.shards()),
        }
