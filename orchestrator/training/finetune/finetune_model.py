"""The model of a fine-tuning run before its first step, and where it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from orchestrator.data.randomness import derive_seed
from orchestrator.inference.prompting import completed, fill_prompts, new_prompts
from orchestrator.modeling.builder import build_target
from orchestrator.modeling.config import read_config
from orchestrator.modeling.initialization import Values, set_aside
from orchestrator.modeling.lora import add_lora, freeze, merged_state
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model, open_model, write_model
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig
from orchestrator.training.config import (
    FineTuneConfig,
    FineTuneOptions,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from orchestrator.training.descent import StepFunction, plain_step
from orchestrator.training.distillation.teacher import Teacher
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.finetune.adversarial import adversarial_step, word_table
from orchestrator.training.finetune.heads import trained_head
from orchestrator.training.finetune.lesson_data import LessonData
from orchestrator.training.finetune.lesson_options import AdversarialConfig
from orchestrator.training.finetune.lessons import Lesson

EngineFactory = Callable[[Model, OptimizerConfig], Engine]
"""Wraps the model, which is on its device already, in an engine."""
Figures = dict[str, float]
OnRankZero = Callable[[Callable[[], Figures]], Figures | None]
"""Runs something on rank 0 while the others wait, however long it takes; they get None."""


@dataclass(frozen=True)
class Place:
    """Device and workers of a training; by default this process on the CPU.

    Attributes:
        device: Where the model goes; its engine moves every batch there.
        build_engine: Makes the engine.
        build_in_parts: Makes the engine of a model on the meta device, whose values are read by
            parts; None: models are built whole.
        world: Number of ranks that share a batch.
        micro_batch_size: Rows of one pass of one rank at most; None: its share of the batch.
        on_rank_zero: Runs something on rank 0 alone.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    build_engine: EngineFactory = SingleEngine
    build_in_parts: Callable[[Model, OptimizerConfig, Values], Engine] | None = None
    world: int = 1
    micro_batch_size: int | None = None
    on_rank_zero: OnRankZero = lambda action: action()

    def engine(self, model: Model, optimizer: OptimizerConfig, values: Values | None) -> Engine:
        """Return the engine of a model, or of a model on the meta device and its values."""
        if values is None or self.build_in_parts is None:
            return self.build_engine(model, optimizer)
        return self.build_in_parts(model, optimizer, values)


@dataclass(frozen=True)
class Heads:
    """The heads of a package in a run.

    Attributes:
        kept: Heads that stay in the model beside those of the lessons.
        renewed: Names of heads that get new weights although the package has such a head.
        helpers: Heads that the model has during training alone.
    """

    kept: Sequence[TargetConfig] = ()
    renewed: Sequence[str] = ()
    helpers: Sequence[TargetConfig] = ()


@dataclass(frozen=True, eq=False)
class Method:
    """Learning beside the labels.

    Attributes:
        teacher: A package whose answers are learned.
        adversarial: How steps also learn at a worse word table.
    """

    teacher: Teacher | None = None
    adversarial: AdversarialConfig | None = None

    def step(self, model: Model, max_grad_norm: float | None) -> StepFunction:
        """Return what takes a step.

        Raises:
            InputError: The model has no word table that adversarial training could move.
        """
        extra = () if self.teacher is None else self.teacher.terms
        if self.adversarial is None:
            return plain_step(max_grad_norm, extra)
        return adversarial_step(self.adversarial, word_table(model), max_grad_norm, extra)


HERE = Place()
LABELS_ALONE = Method()
ONLY_LESSONS = Heads()


def first_model(
    package: Path,
    lessons: Sequence[Lesson],
    heads: Heads,
    config: FineTuneOptions,
    seed: int,
    in_parts: bool = False,
) -> tuple[Model, Values | None]:
    """Return the model before its first step, on the CPU; the same on every rank.

    Args:
        package: Folder of the package.
        lessons: What is learned.
        heads: Heads of the package in the run.
        config: What is frozen or adapted.
        seed: Decides the values of what is new.
        in_parts: Leave the model on the meta device; its values come second then.

    Raises:
        IntegrityError: The package's model does not fit its config.
        InputError: ``freeze`` or ``lora`` names what the model does not have.
    """
    body = read_config(package)
    targets = [
        completed(package, trained_head(body, each, heads.renewed, config)) for each in lessons
    ]
    torch.manual_seed(derive_seed(seed, "head"))
    wanted, stored = [*targets, *heads.kept, *heads.helpers], None
    if in_parts:
        model, stored = open_model(package, wanted)
    else:
        model = load_model(package, targets=wanted)
    for target in targets:
        if target.name in heads.renewed:
            model.targets[target.name] = build_target(target, model.config)
    fill_prompts(model, package, [*new_prompts(package, targets), *heads.renewed])
    if config.lora is not None:
        add_lora(model, config.lora)
    freeze(model, config.freeze)
    return model, None if stored is None else set_aside(model, stored)


def write_finished(folder: Path, model: Model, helpers: Sequence[TargetConfig]) -> None:
    """Write a trained model without what only training needs; adapters become part of it.

    Class weights belong to the rows, not to the model.

    Args:
        folder: An existing folder.
        model: The model with all of its weights.
        helpers: Heads that are left out.
    """
    names = {each.name for each in helpers}
    heads = [
        head.model_copy(update={"class_weights": None}) if isinstance(head, ClsConfig) else head
        for head in model.config.target
        if head.name not in names
    ]
    without = tuple(f"targets.{name}." for name in names)
    state = {k: v for k, v in merged_state(model).items() if not k.startswith(without)}
    write_model(folder, state, model.config.with_targets(heads))


def plan_of(config: FineTuneConfig, data: LessonData) -> TrainConfig:
    """Return steps, batches, optimizer and schedule of a run with a learning rate."""
    assert config.learning_rate is not None
    steps = config.epochs * data.steps_per_epoch
    return TrainConfig(
        max_steps=steps,
        global_batch_size=data.global_batch_size,
        micro_batch_size=data.micro_batch_size,
        optimizer=OptimizerConfig(
            learning_rate=config.learning_rate, weight_decay=config.weight_decay
        ),
        schedule=ScheduleConfig(type="linear", warmup_steps=int(config.warmup_fraction * steps)),
        max_grad_norm=config.max_grad_norm,
        log_every_steps=steps,
    )


COSTLY_WEIGHTS = 2_000_000
"""Weights of an encoder from which padding costs a CPU more than further passes do."""


def is_costly(model: Model) -> bool:
    """Return whether the time of a pass is that of its tokens, not that of calling the layers."""
    return sum(weight.numel() for weight in model.encoder.parameters()) >= COSTLY_WEIGHTS
