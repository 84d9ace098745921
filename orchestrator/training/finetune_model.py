"""The model of a fine-tuning run before its first step, and where it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from orchestrator.modeling.builder import build_target
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.lora import add_lora, freeze
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig
from orchestrator.tasks.base import HeadOptions
from orchestrator.training.config import FineTuneOptions, OptimizerConfig
from orchestrator.training.engine import Engine
from orchestrator.training.lessons import Lesson
from orchestrator.training.seeding import derive_seed
from orchestrator.training.torch_engines import SingleEngine

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
        world: Number of ranks that share a batch.
        micro_batch_size: Rows of one pass of one rank at most; None: its share of the batch.
        on_rank_zero: Runs something on rank 0 alone.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    build_engine: EngineFactory = SingleEngine
    world: int = 1
    micro_batch_size: int | None = None
    on_rank_zero: OnRankZero = lambda action: action()


@dataclass(frozen=True)
class Heads:
    """The heads of a package in a run.

    Attributes:
        kept: Heads that stay in the model beside those of the lessons.
        renewed: Names of heads that get new weights although the package has such a head.
    """

    kept: Sequence[TargetConfig] = ()
    renewed: Sequence[str] = ()


HERE = Place()
ONLY_LESSONS = Heads()


def first_model(
    package: Path, lessons: Sequence[Lesson], heads: Heads, config: FineTuneOptions, seed: int
) -> Model:
    """Return the model before its first step, on the CPU; the same on every rank.

    Raises:
        IntegrityError: The package's model does not fit its config.
        InputError: ``freeze`` or ``lora`` names what the model does not have.
    """
    options = HeadOptions(pooling=config.pooling, hidden=config.hidden, dropout=config.dropout)
    targets = [lesson.target(options) for lesson in lessons]
    torch.manual_seed(derive_seed(seed, "head"))
    model = load_model(package, targets=[*targets, *heads.kept])
    for target in targets:
        if target.name in heads.renewed:
            model.targets[target.name] = build_target(target, model.config)
    if config.lora is not None:
        add_lora(model, config.lora)
    freeze(model, config.freeze)
    return model


def without_class_weights(config: ModelConfig) -> ModelConfig:
    """Return a config without class weights: they belong to the rows, not to the model."""
    heads = [
        head.model_copy(update={"class_weights": None}) if isinstance(head, ClsConfig) else head
        for head in config.target
    ]
    return config.with_targets(heads)


COSTLY_WEIGHTS = 2_000_000
"""Weights of an encoder from which padding costs a CPU more than further passes do."""


def is_costly(model: Model) -> bool:
    """Return whether the time of a pass is that of its tokens, not that of calling the layers."""
    return sum(weight.numel() for weight in model.encoder.parameters()) >= COSTLY_WEIGHTS
