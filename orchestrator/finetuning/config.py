"""Settings of a fine-tuning job. Imports neither torch nor ray."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from orchestrator.config import ClusterSection, JobConfig, Name, StrictModel
from orchestrator.config.changes import PLACES, Change, Changes
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import Problem
from orchestrator.tasks.base import TaskKind
from orchestrator.training.config import (
    EngineConfig,
    FineTuneConfig,
    FineTuneOptions,
    TrackingSection,
    batch_problems,
)
from orchestrator.training.distillation.config import DistillationOptions
from orchestrator.training.finetune.lesson_options import AdversarialConfig, ClassWeights
from orchestrator.training.free_settings import ENGINE, NOISE, NOTHING, ROUNDING, TRACKING
from orchestrator.zoo.gate import Promotion
from orchestrator.zoo.suite import SuiteConfig

HeadName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class LessonSection(StrictModel):
    """One task to learn."""

    data: DatasetSpec
    """Its rows."""
    task: TaskKind | None = None
    """Its kind; null: read from the data's columns and labels."""
    head: HeadName | None = None
    """Name of its head; null: the name of the data set."""
    weight: PositiveFloat = 1.0
    """Weight in the sampling of rows, relative to its number of training rows."""
    class_weights: ClassWeights = "none"
    """Weights of the classes in the loss: none, balanced (inversely to their frequency), or a
    mapping of class to weight. Classification only."""


class TrainingSection(FineTuneOptions):
    """Training of the heads and the layers below them."""

    learning_rate: PositiveFloat | Literal["auto"] | None = None
    """Peak; null: by the rule of training/learning_rates.py; auto: the best of up to four rates on
    a share of the rows."""
    max_length: int = Field(128, ge=4)
    """Tokens a text is cut to; the model's limit where that is smaller."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows of one forward and backward pass of one worker; null: its share of the batch, or, of
    texts on a CPU, 8 of about one length."""
    adversarial: AdversarialConfig | None = None
    """Learn every step at a word table that was moved to raise the loss, too; null: do not."""
    patience: int | None = Field(2, ge=1)
    """Epochs without a gain of the primary metric before training ends; null: never. The weights
    of the best epoch are taken either way."""
    min_gain: float = Field(0.0, ge=0)
    """Smallest change of the primary metric that counts as a gain."""
    log_every_steps: int = Field(10, ge=1)
    """Interval of training metrics."""
    checkpoint_every_steps: int = Field(0, ge=0)
    """Interval of checkpoints beside those after every epoch; 0: none."""
    hang_timeout_s: float = Field(60.0, gt=0)
    """A step, evaluation or checkpoint without progress for this and 20 times the usual hangs."""

    def with_rate(self, learning_rate: float) -> FineTuneConfig:
        """Return the options of the trainer."""
        names = FineTuneOptions.model_fields
        fields = {name: getattr(self, name) for name in names}
        return FineTuneConfig(**fields, learning_rate=learning_rate)


class TeacherSection(DistillationOptions):
    """A package whose answers are learned beside the labels; its reference alone is enough."""

    package: str = Field(min_length=1)
    """The teacher: name, name@alias or name/v0001; its labels are the task's, in their order."""

    @model_validator(mode="before")
    @classmethod
    def _reference(cls, data: Any) -> Any:
        return {"package": data} if isinstance(data, str) else data


MOST_TRIALS = 64
"""Combinations of a grid search at most."""


class SearchSection(StrictModel):
    """Values that a grid search tries, in every combination."""

    learning_rate: tuple[PositiveFloat, ...] = ()
    """Peaks; none: that of train."""
    global_batch_size: tuple[PositiveInt, ...] = ()
    """Rows of one step; none: that of train."""
    epochs: tuple[PositiveInt, ...] = ()
    """Passes over the training rows; none: that of train."""

    @classmethod
    def axes(cls) -> tuple[str, ...]:
        """Names of what can be searched."""
        return tuple(cls.model_fields)

    def problems(self) -> Iterable[Problem]:
        """There is something to try, nothing twice, and not too much."""
        count = 1
        for name in self.axes():
            values = getattr(self, name)
            count *= max(len(values), 1)
            if len(set(values)) < len(values):
                yield Problem(name, f"has a value twice: {list(values)}. Remove it.")
        if count == 1:
            yield Problem("", f"tries one value. Give at least two of {', '.join(self.axes())}.")
        if count > MOST_TRIALS:
            yield Problem("", f"has {count} combinations, {MOST_TRIALS} are allowed. Remove some.")


CHANGES: Changes = {
    **PLACES,
    **ENGINE,
    **TRACKING,
    "train.micro_batch_size": Change(NOISE, "the same sum of gradients in other parts"),
    "train.eval_batch_size": Change(ROUNDING, "speed of evaluations"),
    "train.log_every_steps": Change(NOTHING, "rows of the curve"),
    "train.checkpoint_every_steps": Change(NOTHING, "what is kept"),
    "train.hang_timeout_s": Change(NOTHING, "when workers start again"),
    "licence": Change(NOTHING, "a note on the result"),
    "cache": Change(NOTHING, "a place"),
}
"""Settings that may change when a run goes on; others decide the result."""


class FinetuneConfig(JobConfig):
    """Fine-tune a package on labelled data and commit the result as a package."""

    changes: ClassVar[Changes] = CHANGES

    package: str = Field(min_length=1)
    """Package to start from: name, name@alias or name/v0001."""
    output: Name
    """Name of the package that is committed; run.name is finetune-<output> unless given."""
    data: DatasetSpec | None = None
    """Rows of the task, where there is one."""
    task: TaskKind | None = None
    """Its kind; null: read from the data's columns and labels."""
    head: HeadName | None = None
    """Name of its head; null: the output's name."""
    class_weights: ClassWeights = "none"
    """Weights of its classes in the loss, as in tasks."""
    tasks: tuple[LessonSection, ...] = ()
    """Several tasks with a head each, learned in one run; the first one's head is the default."""
    keep_heads: bool = False
    """Keep the package's other heads; they are not trained, though what is below them is."""
    teacher: TeacherSection | None = None
    """A package to distill; null: labels alone are learned."""
    train: TrainingSection = TrainingSection()
    """Epochs, batches, learning rate, what is trained."""
    search: SearchSection | None = None
    """Grid search on validation rows: the package is trained with the best combination."""
    engine: EngineConfig = EngineConfig()
    """The training engine."""
    cluster: ClusterSection = ClusterSection()
    """The Ray cluster to run on, and how many workers of it."""
    tracking: TrackingSection = TrackingSection()
    """Receivers of the progress of training, in addition to history.parquet."""
    suite: SuiteConfig = SuiteConfig()
    """Rows that the package keeps, so that its exam can be repeated."""
    promotion: Promotion = Promotion()
    """Limits for the heads that are kept; without keep_heads a new suite begins."""
    licence: str | None = None
    """SPDX identifier of the license; null: the parent's."""
    cache: str | None = None
    """Folder for prepared data; null: the user's cache folder."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        """Name the run after the output."""
        if not isinstance(data, dict) or not isinstance(data.get("output"), str):
            return data
        run = data.get("run") or {}
        if not isinstance(run, dict) or "name" in run:
            return data
        return {**data, "run": {"name": f"finetune-{data['output']}"[:64], **run}}

    @property
    def lessons(self) -> tuple[LessonSection, ...]:
        """The tasks, one or several."""
        if self.data is None:
            return self.tasks
        head = self.head or self.output.replace(".", "_")
        lesson = LessonSection(
            data=self.data, task=self.task, head=head, class_weights=self.class_weights
        )
        return (lesson,)

    def problems(self) -> Iterable[Problem]:
        """One form of naming tasks, and batches that divide over the workers."""
        yield from self._task_problems()
        yield from self._search_problems()
        if self.train.adversarial is not None and self.train.lora is not None:
            yield Problem("train.adversarial", "moves the word table, which lora does not train.")
        for path, size in self._batch_sizes():
            micro = self.train.micro_batch_size or 1
            for problem in batch_problems(size, micro, self.cluster.workers):
                yield Problem(path or f"train.{problem.path}", problem.message)
        for problem in self.engine.problems_with(self.cluster.workers):
            yield Problem(f"engine.{problem.path}", problem.message)
        for problem in self.engine.whole_layer_problems():
            yield Problem(f"engine.{problem.path}", problem.message)

    def _batch_sizes(self) -> Iterator[tuple[str, int]]:
        """Yield the sizes of a step with the field that names each; empty: one of train."""
        searched = () if self.search is None else self.search.global_batch_size
        if not searched:
            yield "", self.train.global_batch_size
        for size in searched:
            yield "search.global_batch_size", size

    def _search_problems(self) -> Iterator[Problem]:
        if self.search is None:
            return
        for name in SearchSection.axes():
            if getattr(self.search, name) and name in self.train.model_fields_set:
                yield Problem(f"search.{name}", f"is given beside train.{name}. Remove one.")
        if self.train.learning_rate == "auto" and not self.search.learning_rate:
            yield Problem("train.learning_rate", "is auto. Give search.learning_rate values.")

    def _task_problems(self) -> Iterator[Problem]:
        if self.promotion != Promotion() and not self.keep_heads:
            yield Problem("promotion", "has no effect without keep_heads: true: no head is kept.")
        if self.data is None and not self.tasks:
            yield Problem("data.source", "is missing. Give for example data.source=files:rows.csv")
        if not self.tasks:
            return
        for name in ("data", "task", "head"):
            if getattr(self, name) is not None:
                yield Problem(name, "is given beside tasks. Move it into tasks.")
        if self.class_weights != "none":
            yield Problem("class_weights", "is given beside tasks. Move it into tasks.")
        heads = [lesson.head for lesson in self.tasks if lesson.head is not None]
        for index, lesson in enumerate(self.tasks):
            if lesson.head is not None and heads.count(lesson.head) > 1:
                yield Problem(f"tasks.{index}.head", f"{lesson.head!r} is used twice. Name each.")
