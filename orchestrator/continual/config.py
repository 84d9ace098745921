"""Settings of a continual-learning job. Imports neither torch nor ray."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.config import JobConfig, Name, StrictModel
from orchestrator.config.changes import PLACES, Change, Changes
from orchestrator.config.registry import Choice
from orchestrator.continual.parts.configs import (
    CONTINUAL_PARTS,
    ClampConfig,
    CreateConfig,
    DistillConfig,
    FindConfig,
    PartConfig,
    ReplayConfig,
    SectionConfig,
)
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import Problem
from orchestrator.training.config import EngineConfig, TrainConfig, batch_problems
from orchestrator.training.free_settings import ENGINE, NOTHING, RESULT, TRAIN
from orchestrator.zoo.gate import Promotion
from orchestrator.zoo.suite import SuiteConfig

Preset = Literal["finetune", "replay", "ewc", "lwf", "sam", "c&f", "c&f+replay", "joint"]

PRESETS: dict[Preset, tuple[str, ...]] = {
    "finetune": (),
    "replay": ("replay",),
    "ewc": ("find",),
    "lwf": ("distill",),
    "sam": ("create",),
    "c&f": ("create", "find", "clamp"),
    "c&f+replay": ("create", "find", "clamp", "replay"),
    "joint": (),
}
"""Parts that each preset switches on. ``joint`` learns all tasks at once: the upper bound."""


class MethodConfig(StrictModel):
    """Protection of earlier tasks: a preset, each of its parts switchable, and further parts."""

    preset: Preset = "c&f"
    """finetune, replay, ewc, lwf, sam, c&f, c&f+replay or joint."""
    create: CreateConfig = CreateConfig()
    """Sharpness-aware ascent."""
    find: FindConfig = FindConfig()
    """Importance and penalty."""
    clamp: ClampConfig = ClampConfig()
    """Box constraint."""
    replay: ReplayConfig = ReplayConfig()
    """Rehearsal."""
    distill: DistillConfig = DistillConfig()
    """Distillation of earlier heads."""
    parts: tuple[Annotated[PartConfig, Choice(CONTINUAL_PARTS)], ...] = ()
    """Further parts, such as those of other packages: a name, or a mapping with `type`."""

    @property
    def sections(self) -> tuple[SectionConfig, ...]:
        """Parts with a section of their own, in the order in which a step runs them."""
        return (self.create, self.find, self.clamp, self.replay, self.distill)

    def used(self) -> tuple[PartConfig, ...]:
        """Return the parts that are on, in the order in which a step runs them.

        A section's own switch wins over the preset.
        """
        preset = PRESETS[self.preset]
        sections = [
            part
            for part in self.sections
            if (part.type_name() in preset if part.enabled is None else part.enabled)
        ]
        return (*sections, *self.parts)

    def problems(self) -> Iterable[Problem]:
        """Parts are listed once; joint training has no earlier tasks to protect."""
        sections = [part.type_name() for part in self.sections]
        names = [part.type_name() for part in self.parts]
        for index, name in enumerate(names):
            if name in sections:
                advice = f"has a section of its own: set method.{name}.enabled: true"
                yield Problem(f"parts.{index}.type", f"{name!r} {advice}")
            elif name in names[:index]:
                yield Problem(f"parts.{index}.type", f"{name!r} is listed twice. Leave one out")
        if self.preset == "joint":
            useless = "has no meaning with preset: joint. Leave it out"
            for part in self.sections:
                if part.protects and part.enabled:
                    yield Problem(f"{part.type_name()}.enabled", useless)
            for index, listed in enumerate(self.parts):
                if listed.protects:
                    yield Problem(f"parts.{index}", f"{listed.type_name()} {useless}")


class StreamTask(DatasetSpec):
    """One task of the stream: a labelled data set with a name for its head."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Name of the task and of its head; null: the last part of the source."""
    weight: float = Field(1.0, gt=0)
    """Weight of this task's loss where several are trained at once (joint)."""

    @property
    def title(self) -> str:
        """The task's name, also where none is given."""
        if self.name is not None:
            return self.name
        stem = PurePath(self.location).name.split(".")[0]
        return "".join(c if c.isalnum() or c in "_-" else "_" for c in stem) or "task"

    @property
    def spec(self) -> DatasetSpec:
        """The data set without its name and weight."""
        fields = {name: getattr(self, name) for name in DatasetSpec.model_fields}
        return DatasetSpec(**fields)


class PromotionConfig(Promotion):
    """Limits that the new package must keep to be accepted, and the alias it then takes over."""

    max_forgetting: float | None = Field(None, ge=0, le=1)
    """Largest average forgetting of the stream that is accepted; null: no bound. Forgetting that is
    unknown is refused."""
    alias: Name | None = None
    """Alias to move to the package when it is accepted; null: none moves."""

    def problems(self) -> Iterable[Problem]:
        """The alias ``latest`` moves by itself."""
        yield from super().problems()
        if self.alias == "latest":
            yield Problem("alias", "'latest' always moves. Use for example candidate or champion")


CHANGES: Changes = {
    **PLACES,
    **ENGINE,
    **TRAIN,
    "train.max_steps": Change(RESULT, "steps of each task"),
    "train.eval_every_steps": Change(NOTHING, "rows of the curve"),
    "eval_batch_size": Change(NOTHING, "speed of evaluations"),
    "cache": Change(NOTHING, "a place"),
}
"""Settings that may change when a run goes on; others decide the result."""


class ContinualConfig(JobConfig):
    """Learn a stream of tasks, one after the other: package to package."""

    changes: ClassVar[Changes] = CHANGES

    package: str = Field("encoder", min_length=1)
    """Package to start from: name, name@alias or name/v0001."""
    output: Name = "continual"
    """Name of the package that is committed."""
    tasks: tuple[StreamTask, ...] = Field(min_length=1)
    """The tasks in the order in which they are learned."""
    method: MethodConfig = MethodConfig()
    """Protection of earlier tasks."""
    train: TrainConfig = TrainConfig()
    """Training of each task; max_steps counts the steps of one task."""
    max_length: int = Field(64, ge=4)
    """Longest text in tokens; longer ones are cut."""
    pooling: Literal["mean", "first", "last", "max"] = "mean"
    """Pooling of token vectors below each head."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate before each classifier."""
    eval_batch_size: int = Field(128, ge=1)
    """Rows per evaluation batch of one worker."""
    engine: EngineConfig = EngineConfig()
    """The training engine."""
    promotion: PromotionConfig = PromotionConfig()
    """Promises of the package that the result must keep, and the alias that moves to it."""
    suite: SuiteConfig = SuiteConfig()
    """Rows that the package keeps to repeat the exam and to protect its tasks."""
    cache: str | None = None
    """Folder for prepared data; null: the user's cache folder."""

    def problems(self) -> Iterable[Problem]:
        """Task names must differ, batches must divide over the workers."""
        titles = [task.title for task in self.tasks]
        for index, title in enumerate(titles):
            if title in titles[:index]:
                yield Problem(
                    f"tasks.{index}.name",
                    f"{title!r} is already the name of task {titles.index(title)}. Each task has "
                    "a head of its own: give another name",
                )
        if self.train.early_stopping is not None:
            yield Problem(
                "train.early_stopping",
                "is not supported: each task is learned for train.max_steps. Leave it out",
            )
        usual = TrainConfig.model_fields["max_rollbacks"].default
        if self.train.max_rollbacks not in (0, usual):
            yield Problem(
                "train.max_rollbacks",
                f"{self.train.max_rollbacks} is not supported: only pre-training goes back to a "
                "checkpoint by itself. Leave it out",
            )
        sizes = (self.train.global_batch_size, self.train.micro_batch_size)
        for problem in batch_problems(*sizes, self.cluster.workers):
            yield Problem(f"train.{problem.path}", problem.message)
        for problem in self.engine.problems_with(self.cluster.workers, self.train.optimizer):
            yield Problem(f"engine.{problem.path}", problem.message)
        for problem in self.engine.whole_layer_problems():
            yield Problem(f"engine.{problem.path}", problem.message)


class ContinualInputs(StrictModel):
    """Everything a worker needs: asked for once in the driver."""

    config: ContinualConfig
    """The resolved job."""
    zoo: str
    """Absolute path or URI of the zoo."""
    package: str
    """Reference of the package to start from; its alias may have moved since."""
