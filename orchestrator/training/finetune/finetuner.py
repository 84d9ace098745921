"""Fine-tuning of one package on labelled tasks.

Selection trials train an epoch at a time in one process; the finetune stage hands in the engine of
its workers and runs the same steps. The first is quick to start (new heads are the only thing that
is built), texts are tokenized once, and both are exact to resume: what a step does depends on
(seed, step) alone, so a run that is paused, saved and continued elsewhere is the run that was never
paused.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.data.prefetch import Prefetch
from orchestrator.data.processors.example_processor import open_processor
from orchestrator.errors import IntegrityError
from orchestrator.inference.models import TorchModel
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.huggingface.sources import OF_TEXT_AND_GENERATION, copy_processor
from orchestrator.modeling.initialization import Values
from orchestrator.modeling.model import Model
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig
from orchestrator.tasks.base import Answer, AnyTask
from orchestrator.tasks.measure import Measured, measure
from orchestrator.training.config import FineTuneConfig
from orchestrator.training.finetune.finetune_model import (
    HERE,
    LABELS_ALONE,
    ONLY_LESSONS,
    Heads,
    Method,
    Place,
    first_model,
    is_costly,
    plan_of,
    write_finished,
)
from orchestrator.training.finetune.lesson_data import LessonData, Split
from orchestrator.training.finetune.lessons import Lesson
from orchestrator.training.history import History
from orchestrator.training.loop import train

PROGRESS = "finetune.json"
HISTORY = "history.parquet"
__all__ = ["FineTuneConfig", "FineTuner", "Heads", "Lesson", "Method", "Place"]


class FineTuner:
    """A package being fine-tuned.

    Attributes:
        engine: The model with its optimizer.
        lessons: What is learned; the first one's head is the default head.
        tasks: The task of each head, with what was chosen on validation rows (a threshold).
        data: Rows and batches.
        plan: Steps, batches, optimizer and schedule of the run.
        source: Batches of each step.
        step_fn: Takes a step.
        steps_done: Optimizer steps taken, counted in the loop.
        epochs_done: Whole epochs trained.
        history: Learning curves so far.

    Args:
        package: Folder of the package to start from.
        lessons: What to learn; test rows are only read by ``evaluate`` and ``measure``.
        config: How, with a learning rate.
        seed: Decides the heads' first weights, which rows a cap keeps, their order, and dropout.
        heads: Heads of the package that stay, or are made anew.
        place: Where it is trained.
        method: What is learned beside the labels.

    Raises:
        IntegrityError: The package's model does not fit its config.
        InputError: The package has no tokenizer, a task no rows, ``freeze`` or ``lora`` names what
            the model does not have, or the method does not fit the model.
    """

    def __init__(
        self,
        package: Path,
        lessons: Sequence[Lesson],
        config: FineTuneConfig,
        seed: int = 7,
        *,
        heads: Heads = ONLY_LESSONS,
        place: Place = HERE,
        method: Method = LABELS_ALONE,
    ) -> None:
        if config.learning_rate is None:
            raise ValueError("the learning rate is chosen by training.learning_rates.rate_for")
        self.lessons, self.config, self.seed = tuple(lessons), config, seed
        self.tasks: dict[str, AnyTask] = {each.head: each.task for each in self.lessons}
        if method.teacher is not None:
            self.lessons = tuple(replace(each, teacher=method.teacher) for each in lessons)
            heads = replace(heads, helpers=method.teacher.helpers)
        self._package, self._heads, self._place = package, heads, place
        self.model, values = self._first(place.build_in_parts is not None)
        self.max_length = min(config.max_length, self.model.config.max_position_embeddings)
        self.data = LessonData(
            self.lessons,
            open_processor(package),
            config,
            self.max_length,
            seed,
            world=place.world,
            micro_batch_size=place.micro_batch_size,
            short_passes=place.device.type == "cpu" and is_costly(self.model),
        )
        self.plan = plan_of(config, self.data)
        self.source = self.data.source(self.plan.max_steps)
        self.step_fn = method.step(self.model, config.max_grad_norm)
        self.engine = place.engine(self.model, self.plan.optimizer, values)
        self.steps_done = 0
        self.epochs_done = 0
        self.history = History()

    @property
    def finished(self) -> bool:
        """Whether all epochs of the config are trained."""
        return self.epochs_done >= self.config.epochs

    @property
    def head(self) -> str:
        """Name of the default head: the first task's."""
        return self.lessons[0].head

    @property
    def watched(self) -> str:
        """The metric that decides which epoch is the best: the first task's primary one."""
        return self._key(self.lessons[0])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return self.data.steps_per_epoch

    def train_epoch(self, steps: int | None = None) -> dict[str, float]:
        """Train to the end of the epoch, or its next ``steps``.

        Returns:
            Mean ``loss`` over these steps, and ``accuracy`` of a lone classification task.
        """
        end = (self.epochs_done + 1) * self.steps_per_epoch
        until = end if steps is None else min(end, self.steps_done + steps)
        with Prefetch(self.source) as source:
            result = train(
                self.engine,
                source,
                self.plan,
                first_step=self.steps_done,
                until_step=until,
                seed=self.seed,
                step_fn=self.step_fn,
            )
        self.steps_done = result.steps
        self.epochs_done = self.steps_done // self.steps_per_epoch
        short = {"loss": result.train.get("loss", float("nan"))}
        if self._counted(self.lessons[0]):
            accuracy = result.train.get(f"accuracy.{self.lessons[0].head}", float("nan"))
            short[self.watched] = accuracy
        return self._log("train", short)

    def evaluate(self, split: Split = "validation") -> dict[str, float]:
        """Measure a split without dropout; collective. Writes the figures into the history.

        Returns:
            ``loss``, and the primary metric of each task: under its name, of several tasks as
            ``<metric>.<head>``.
        """
        return self._log(split, self.figures(split))

    def figures(self, split: Split = "validation") -> dict[str, float]:
        """Measure a split without dropout, as `evaluate` does; collective."""
        found = self.engine.evaluate(self.data.batches(split, self.engine.rank, self.engine.world))
        figures = {"loss": found["loss"]}
        others = [each for each in self.lessons if not self._counted(each)]
        measured: dict[str, float] = {}
        if others:
            model = self.whole()
            measured = self._shared(
                lambda: {self._key(each): self._primary(model, each, split) for each in others},
                [self._key(each) for each in others],
            )
        for lesson in self.lessons:
            key = self._key(lesson)
            figures[key] = measured[key] if key in measured else found[f"accuracy.{lesson.head}"]
        return figures

    def measure(self, model: Model, split: Split = "test") -> dict[str, Measured]:
        """Return every metric of each task with its interval; on one rank.

        Thresholds are chosen on validation rows first.

        Args:
            model: From `whole`.
            split: Which rows.
        """
        return {head: measured for head, (_, measured) in self.tested(model, split).items()}

    def tested(
        self, model: Model, split: Split = "test"
    ) -> dict[str, tuple[list[Answer], Measured]]:
        """Return the answers of each task beside their metrics, as `measure` does."""
        for lesson in self.lessons:
            self._primary(model, lesson, "validation")
        found = {}
        for index, lesson in enumerate(self.lessons):
            answers, rows = self._answers(model, lesson, split), self.data.rows(split, index)
            found[lesson.head] = answers, measure(self.tasks[lesson.head], rows, answers)
        return found

    def answers(self, split: Split = "test", lesson: int = 0) -> list[Answer]:
        """Answer the rows of a split; collective where weights are cut."""
        return self._answers(self.whole(), self.lessons[lesson], split)

    def whole(self) -> Model:
        """Return the model with all weights on this rank; collective where weights are cut.

        It is the model that is trained, or a copy where an engine has cut that.
        """
        if self.engine.replicated:
            return self.model
        model, _ = self._first()
        missing, unexpected = model.load_state_dict(self.engine.gathered(), strict=False)
        buffers = dict(model.named_buffers())
        if unexpected or set(missing) - set(model.tied_names()) - buffers.keys():
            raise IntegrityError(f"the engine has {unexpected}, and lacks {missing}")
        return model

    def save(self, folder: Path) -> None:
        """Write everything that :meth:`load` needs; the caller makes the folder atomic."""
        self.engine.save(folder)
        self.history.to_parquet(folder / HISTORY)
        (folder / PROGRESS).write_text(json.dumps(self._progress(), indent=1), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Continue from a saved state, exactly.

        Raises:
            IntegrityError: The state is missing or of another task, seed or config.
        """
        try:
            found = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{folder / PROGRESS} cannot be read: {error}") from error
        expected = self._progress()
        counters = ("steps_done", "epochs_done")
        if {**found, **{c: 0 for c in counters}} != {**expected, **{c: 0 for c in counters}}:
            raise IntegrityError(
                f"{folder} is the state of another trial: {found}, this one is {expected}"
            )
        self.engine.load(folder)
        self.steps_done, self.epochs_done = found["steps_done"], found["epochs_done"]
        self.history = History.from_parquet(folder / HISTORY)

    def write(self, folder: Path, model: Model | None = None) -> None:
        """Write the files of a package: model, adapters merged, tokenizer, learning curves.

        Chat template and settings of generation are those of the package that was trained.

        Args:
            folder: Where.
            model: From `whole`; None: the model that is trained.
        """
        model = self.model if model is None else model
        write_finished(folder, model, self._heads.helpers)
        if self.data.processor is not None:
            self.data.processor.save(folder)
        unchanged = [name for name in OF_TEXT_AND_GENERATION if (self._package / name).is_file()]
        copy_processor(self._package, unchanged, folder)
        self.history.to_parquet(folder / HISTORY)

    def _first(self, in_parts: bool = False) -> tuple[Model, Values | None]:
        """Return the model before its first step, on its device; in parts, see `first_model`."""
        given = self._package, self.lessons, self._heads, self.config, self.seed
        model, values = first_model(*given, in_parts)
        return (model.to(self._place.device) if values is None else model), values

    def _counted(self, lesson: Lesson) -> bool:
        """Whether the engine counts the primary metric while it measures the loss."""
        return isinstance(self._head(lesson), ClsConfig) and lesson.task.primary.name == "accuracy"

    def _head(self, lesson: Lesson) -> TargetConfig:
        return next(each for each in self.model.config.target if each.name == lesson.head)

    def _key(self, lesson: Lesson) -> str:
        name = lesson.task.primary.name
        return name if len(self.lessons) == 1 else f"{name}.{lesson.head}"

    def _primary(self, model: Model, lesson: Lesson, split: Split) -> float:
        """Return the primary metric; a threshold is chosen anew on validation rows."""
        rows = self.data.rows(split, self.lessons.index(lesson))
        answers = self._answers(model, lesson, split)
        if split == "validation":
            adapted = lesson.task.adapted(rows, answers)
            if adapted is not lesson.task:
                self.tasks[lesson.head] = adapted
                answers = self._answers(model, lesson, split)
        primary = lesson.task.primary
        statistics = self.tasks[lesson.head].statistics(rows, answers)[primary.name]
        return float(primary.value(np.ones((1, len(rows))), statistics)[0])

    def _answers(self, model: Model, lesson: Lesson, split: Split) -> list[Answer]:
        """Answer the rows of a split as the finished package will."""
        training = model.training
        predictor = Predictor(
            TorchModel(model, str(self._place.device)),
            self.data.processor,
            self.tasks,
            max_length=self.max_length,
        )
        try:
            return predictor.answers(self.data.rows(split, self.lessons.index(lesson)), lesson.head)
        finally:
            model.train(training)

    def _shared(
        self, action: Callable[[], dict[str, float]], keys: Sequence[str]
    ) -> dict[str, float]:
        """Return rank 0's figures on every rank: all take the same decisions; collective."""
        found = self._place.on_rank_zero(action) or {}
        values = torch.tensor([found.get(key, 0.0) for key in keys], dtype=torch.float64)
        total = self.engine.sum_over_ranks(values)
        return dict(zip(keys, total.tolist(), strict=True))

    def _log(self, split: Split, metrics: dict[str, float]) -> dict[str, float]:
        self.history.log(self.steps_done, split, metrics, epoch=float(self.epochs_done))
        return metrics

    def _progress(self) -> dict[str, Any]:
        return {
            "tasks": [
                {
                    "task": each.data.name,
                    "weight": each.weight,
                    **each.task.spec.model_dump(mode="json"),
                }
                for each in self.lessons
            ],
            "seed": self.seed,
            "config": self.config.model_dump(mode="json"),
            "steps_done": self.steps_done,
            "epochs_done": self.epochs_done,
        }
