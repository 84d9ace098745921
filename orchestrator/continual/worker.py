"""The worker on every rank: learns the stream unit by unit and resumes within each.

Each unit gets a new engine over the weights of the previous unit, with a new optimizer: a head's
first steps must not meet moments that decayed while it was idle. Rank 0 commits the results of a
finished unit (``stages``); within a unit, checkpoints hold the state of the engine and the parts.
"""

from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch

from orchestrator.continual.config import ContinualConfig, ContinualInputs
from orchestrator.continual.fisher import skeleton_of
from orchestrator.continual.part_state import load_parts, with_parts
from orchestrator.continual.results import UnitLearned, UnitRecord, UnitState, WorkerResult
from orchestrator.continual.stages import Stages
from orchestrator.continual.step import ContinualStep, build_parts
from orchestrator.continual.stream import Split, Stream, Unit, units_of
from orchestrator.continual.task import UnitTask
from orchestrator.data.prefetch import Prefetch
from orchestrator.data.randomness import derive_seed
from orchestrator.data.steps import eval_batches
from orchestrator.errors import IntegrityError
from orchestrator.modeling.initialization import Held, Values, set_aside
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model, open_model
from orchestrator.training.curve_parts import CurveParts
from orchestrator.training.engines.engine import Engine
from orchestrator.training.events import BUILDING, Measurement, Metrics, Status, loading
from orchestrator.training.history import History
from orchestrator.training.loop import Hooks, TrainResult, train
from orchestrator.training.watchdog import STORING, Watchdog, beating
from orchestrator.training.worker_context import StoredState, WorkerContext
from orchestrator.zoo import Zoo

STREAM_FOLDER = "stream"


def run(context: WorkerContext, inputs: ContinualInputs) -> WorkerResult:
    """Learn the units of the stream that are not finished.

    Args:
        context: This worker.
        inputs: The job and the package to start from.
    """
    context = context.claimed()
    package = Zoo(inputs.zoo).get(inputs.package).path
    units = units_of(inputs.config)
    stages = Stages(context.run_dir / STREAM_FOLDER, units)
    finished = context.broadcast_from_rank_zero(context.on_rank_zero(stages.finished) or 0)
    if finished < len(units):
        stream = Stream.load(inputs.config, package)
        learner = Learner(context, inputs.config, stream, stages, package)
        while finished < len(units) and learner.learn(units[finished]):
            finished += 1
    return WorkerResult(finished=finished, stopped=finished < len(units))


@dataclass(slots=True)
class _Session:
    """One unit being learned on this rank."""

    task: UnitTask
    step: ContinualStep
    curves: CurveParts
    history: History = field(default_factory=History)


@dataclass(frozen=True, slots=True)
class Learner:
    """Learns units; results of earlier ones are read from ``stages``."""

    context: WorkerContext
    config: ContinualConfig
    stream: Stream
    stages: Stages
    package: Path

    def learn(self, unit: Unit) -> bool:
        """Learn one unit and commit its results; collective.

        Returns:
            False when the driver asked to stop; a checkpoint is committed then.
        """
        limit = self.config.train.hang_timeout_s
        with closing(Watchdog(self.context.hung, limit)) as watchdog:
            with watchdog.phase(BUILDING):
                session = self._open(unit)
            result = self._train(session, watchdog)
            if not result.stopped:
                with watchdog.phase(STORING):
                    self._finish(session, result)
        return not result.stopped

    def _open(self, unit: Unit) -> _Session:
        """Build the engine at the weights of the previous unit, or at the unit's own checkpoint."""
        self.context.emit(Status(message=BUILDING))
        model, values = self._model(unit)
        skeleton = skeleton_of(model)
        engine = self.context.build_engine(
            model,
            self.config.train.optimizer,
            self.config.engine,
            {task.title: task.weight for task in self.config.tasks},
            values,
        )
        task = UnitTask(self.stream, self.stages, self.package, unit, engine, skeleton)
        parts = build_parts(self.config.method.used())
        for part in parts:
            part.before_task(task)
        step = ContinualStep(parts, self.config.train.max_grad_norm)
        session = _Session(task, step, CurveParts(self.context))

        def require(found: StoredState) -> None:
            state = found.read(UnitState)
            if state.unit == unit.index:  # the curves of finished units are no longer in parts
                session.curves.require(state.curves)

        found = self.context.latest_checkpoint(require)
        state = None if found is None else found.read(UnitState)
        if found is not None and state is not None and state.unit == unit.index:
            self.context.emit(loading(state.step))
            engine.load(found.path)
            load_parts(found.path, engine, parts)
            session.step.steps_done = state.step
            session.history = session.curves.resume(state.curves, state.history)
        else:
            session.curves.resume(None)
        return session

    def _model(self, unit: Unit) -> tuple[Model, Values | None]:
        """Return the model; where the engine cuts it, on the meta device, and its values."""
        torch.manual_seed(derive_seed(self.config.seed, "heads"))
        heads, values = self.stream.heads(self.package), None
        if self.config.engine.sharding_stage:
            model, stored = open_model(self.package, heads)
            values = set_aside(model, stored)
        else:
            model = load_model(self.package, targets=heads)
        if unit.index:
            left = self.stages.weights(unit.index - 1)
            own, tied = model.state_dict(), model.tied_names().keys()
            missing, unexpected = own.keys() - left.keys() - tied, left.keys() - own.keys()
            sizes = [
                f"{name} {list(left[name].shape)} instead of {list(value.shape)}"
                for name, value in own.items()
                if name in left and left[name].shape != value.shape
            ]
            if unexpected or missing or sizes:
                raise IntegrityError(
                    f"{self.stages.folder(unit.index - 1)} belongs to another model: missing "
                    f"{sorted(missing)}, unexpected {sorted(unexpected)}, other sizes {sizes}. "
                    "Start a run with another name"
                )
            if values is None:
                model.load_state_dict(left, strict=False)
            else:
                buffers = {name: left[name] for name, _ in model.named_buffers() if name in left}
                model.load_state_dict(buffers, strict=False)
                values = Held(left, values)
        return model, values

    def _train(self, session: _Session, watchdog: Watchdog) -> TrainResult:
        unit, engine = session.task.unit, session.task.engine
        offset = self._steps_before(unit)

        def observe(event: Measurement) -> None:
            event = event.model_copy(update={"step": offset + event.step, "run": unit.title})
            session.history.observe(event)
            self.context.emit(event)

        def save(done: int) -> None:
            if done < unit.steps:  # a finished unit is committed right after
                position, store_rows = session.curves.extend(session.history.take())
                state = UnitState(unit=unit.index, step=done, curves=position)
                saved = with_parts(engine, session.step.parts)
                self.context.commit_checkpoint(offset + done, saved, state, store_rows)

        config = self.config.train
        with Prefetch(self.stream.source(unit)) as source:
            return train(
                engine,
                source,
                config.model_copy(update={"max_steps": unit.steps}),
                first_step=session.step.steps_done,
                seed=derive_seed(self.config.seed, "unit", unit.index),
                step_fn=session.step,
                hooks=Hooks(
                    observer=observe,
                    evaluate=lambda: self._measure(engine, unit.tasks, "validation"),
                    save=save,
                    should_stop=self.context.should_stop,
                    watchdog=watchdog,
                ),
            )

    def _finish(self, session: _Session, result: TrainResult) -> None:
        """Test, collect what the parts store for later units, commit; collective."""
        unit, engine = session.task.unit, session.task.engine
        tested = self._measure(engine, unit.seen, "test")
        session.history.log(self._steps_before(unit) + unit.steps, "test", tested)
        left, buffers = {}, {}
        for part in session.step.parts:
            leftovers = part.after_task(session.task)
            buffers.update(leftovers.rows)
            if leftovers.tensors is not None:
                left[part.left_name] = leftovers.tensors
        weights = dict(beating(engine.state_dict()))
        titles = [self.stream.titles[task] for task in unit.seen]
        record = UnitRecord(
            accuracy={title: tested[f"accuracy.{title}"] for title in titles},
            buffers=buffers,
            steps=unit.steps,
            skipped=result.skipped,
            clamped_share=result.train.get("clamped_share"),
            seconds=session.history.seconds,
        )

        def commit() -> None:
            self.context.require_claim()
            self.stages.commit(
                unit, weights=weights, left=left, history=session.history, record=record
            )

        self.context.on_rank_zero(commit)
        self.context.emit(UnitLearned(unit=unit.index, task=unit.title, record=record))

    def _measure(self, engine: Engine, tasks: tuple[int, ...], split: Split) -> Metrics:
        """Evaluate the heads of some tasks on their own rows; collective."""
        return engine.evaluate(
            chain.from_iterable(
                eval_batches(
                    self.stream.samples(task, split),
                    self.config.eval_batch_size,
                    self.context.rank,
                    self.context.world,
                )
                for task in tasks
            )
        )

    def _steps_before(self, unit: Unit) -> int:
        return sum(earlier.steps for earlier in self.stages.units[: unit.index])
