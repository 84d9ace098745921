"""Settings of a continual-learning job. Imports neither torch nor ray."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Literal

from pydantic import Field

from orchestrator.config import JobConfig, Name, StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import Problem
from orchestrator.training.config import EngineConfig, TrainConfig, batch_problems

Preset = Literal["finetune", "replay", "ewc", "sam", "c&f", "c&f+replay", "joint"]
Part = Literal["create", "find", "clamp", "replay"]

PARTS: tuple[Part, ...] = ("create", "find", "clamp", "replay")
"""Parts of the method, in the order in which a step runs them."""
PRESETS: dict[Preset, frozenset[Part]] = {
    "finetune": frozenset(),
    "replay": frozenset({"replay"}),
    "ewc": frozenset({"find"}),
    "sam": frozenset({"create"}),
    "c&f": frozenset({"create", "find", "clamp"}),
    "c&f+replay": frozenset({"create", "find", "clamp", "replay"}),
    "joint": frozenset(),
}
"""Which parts each preset switches on. ``joint`` sees all tasks at once: the upper bound."""


class CreateConfig(StrictModel):
    """Create flat regions: the gradient is taken at the worst point nearby."""

    enabled: bool | None = None
    """null: as the preset says."""
    rho: float = Field(0.65, ge=0)
    """Radius of the ascent, relative to each weight when adaptive (0.65 in the paper)."""
    adaptive: bool = True
    """Scale the ascent by the weights (ASAM); false: plain SAM, with a rho of about 0.05."""


class FindConfig(StrictModel):
    """Find flatness: importance of each weight for what was learned, and a penalty by it."""

    enabled: bool | None = None
    """null: as the preset says."""
    penalty: float = Field(0.5, ge=0)
    """Strength lambda of the penalty; with normalise: false the scale is that of the Fisher
    information itself (50000 in the paper)."""
    normalise: bool = True
    """Divide each task's importance by its mean, so that lambda carries over between models."""
    gamma: float = Field(0.95, ge=0, le=1)
    """What is kept of earlier importance when a task's is added; 0: only the last task."""
    fisher_samples: int = Field(128, ge=1)
    """Training rows whose gradients measure the importance."""
    way: Literal["gathered", "sharded"] = "gathered"
    """gathered: ranks share the rows, each holds the whole model; sharded: memory stays cut,
    every rank runs every row."""


class ClampConfig(StrictModel):
    """A box around the weights at the end of the previous task."""

    enabled: bool | None = None
    """null: as the preset says."""
    radius: float = Field(2.0, ge=0)
    """Half width relative to each anchor's size (0.65, tied to rho, in the paper: too tight for
    small models trained from scratch)."""
    floor: float = Field(0.05, ge=0)
    """Smallest half width, so that weights anchored at zero can move (0 in the paper)."""


class ReplayConfig(StrictModel):
    """Rehearse a few rows of earlier tasks."""

    enabled: bool | None = None
    """null: as the preset says."""
    fraction: float = Field(0.01, gt=0, le=1)
    """Share of each task's training rows that is kept (at least one row a class)."""
    every_steps: int = Field(20, ge=1)
    """After this many steps each earlier task gets one step on its buffer."""
    choice: Literal["random", "kmeans"] = "kmeans"
    """How rows are chosen: at random, or nearest to the centres of their features."""


class MethodConfig(StrictModel):
    """What protects earlier tasks: a preset, each of its parts switchable."""

    preset: Preset = "c&f"
    """finetune, replay, ewc, sam, c&f, c&f+replay or joint."""
    create: CreateConfig = CreateConfig()
    """Sharpness-aware ascent."""
    find: FindConfig = FindConfig()
    """Importance and penalty."""
    clamp: ClampConfig = ClampConfig()
    """Box constraint."""
    replay: ReplayConfig = ReplayConfig()
    """Rehearsal."""

    def uses(self, part: Part) -> bool:
        """Whether a part is on: its own switch, else the preset's."""
        own: bool | None = getattr(self, part).enabled
        return part in PRESETS[self.preset] if own is None else own

    def problems(self) -> Iterable[Problem]:
        """Joint training has no earlier tasks to protect."""
        if self.preset == "joint":
            for part in ("find", "clamp", "replay"):
                if getattr(self, part).enabled:
                    yield Problem(
                        f"{part}.enabled", "has no meaning with preset: joint. Leave it out"
                    )


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
        """The data set alone."""
        fields = {name: getattr(self, name) for name in DatasetSpec.model_fields}
        return DatasetSpec(**fields)


class PromotionConfig(StrictModel):
    """When the new package may take over an alias."""

    max_forgetting: float | None = Field(None, ge=0, le=1)
    """Largest average forgetting that is accepted; null: no bound."""
    alias: Name | None = None
    """Alias to move to the package when it is within the bound; null: move none."""

    def problems(self) -> Iterable[Problem]:
        """The alias ``latest`` moves by itself."""
        if self.alias == "latest":
            yield Problem("alias", "'latest' always moves. Use for example candidate or champion")


class ContinualConfig(JobConfig):
    """Learn a stream of tasks, one after the other: package to package."""

    package: str = Field("encoder", min_length=1)
    """Package to start from: name, name@alias or name/v0001."""
    output: Name = "continual"
    """Name of the package that is committed."""
    tasks: tuple[StreamTask, ...] = Field(min_length=1)
    """The tasks in the order in which they arrive."""
    method: MethodConfig = MethodConfig()
    """What protects earlier tasks."""
    train: TrainConfig = TrainConfig()
    """Training of each task; max_steps counts the steps of one task."""
    max_length: int = Field(64, ge=4)
    """Tokens a text is cut to."""
    pooling: Literal["mean", "first", "last", "max"] = "mean"
    """How token vectors become one below each head."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate before each classifier."""
    eval_batch_size: int = Field(128, ge=1)
    """Rows of one evaluation pass of one worker."""
    engine: EngineConfig = EngineConfig()
    """The training engine."""
    promotion: PromotionConfig = PromotionConfig()
    """Whether and when an alias moves to the result."""
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
        sizes = (self.train.global_batch_size, self.train.micro_batch_size)
        for problem in batch_problems(*sizes, self.cluster.workers):
            yield Problem(f"train.{problem.path}", problem.message)
        for problem in self.engine.problems_with(self.cluster.workers, self.train.optimizer):
            yield Problem(f"engine.{problem.path}", problem.message)
