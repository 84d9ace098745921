"""Sharpness-aware steps in the last part of a run, and the flatness of its result."""

from itertools import islice

from orchestrator.data.samples.base import SampleDataset
from orchestrator.data.steps import eval_batches
from orchestrator.pretraining.job_sections import TrainingSection
from orchestrator.training.descent import StepFunction
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.optimizers import averaged
from orchestrator.training.sharpness import LateSteps, perturbed_losses
from orchestrator.zoo.flatness import Flatness

FLATNESS_SAMPLES = 512
"""Held-out samples, about, that flatness is measured on."""


def steps_from(train: TrainingSection, first: int) -> StepFunction | None:
    """Return the steps of a run from step ``first`` on; None: ordinary ones."""
    if train.flatness is None or not train.late_steps:
        return None
    late = train.max_steps - train.late_steps
    return LateSteps(late, train.flatness.rho, train.flatness.adaptive, train.max_grad_norm, first)


def measured_flatness(
    train: TrainingSection, engine: Engine, held_out: SampleDataset, steps: int
) -> Flatness | None:
    """Measure the weights that are exported; collective.

    Args:
        train: None of the figures unless its flatness has a radius.
        engine: Holds the weights; they stay as they are.
        held_out: Validation samples.
        steps: Optimizer steps that were taken.
    """
    section = train.flatness
    if section is None or not section.rho:
        return None
    size = train.micro_batch_size
    batches = eval_batches(held_out, size, engine.rank, engine.world)
    measured = list(islice(batches, max(1, FLATNESS_SAMPLES // (size * engine.world))))
    with averaged(engine):
        loss, there = perturbed_losses(engine, measured, section.rho, adaptive=section.adaptive)
    return Flatness(
        rho=section.rho,
        adaptive=section.adaptive,
        batches=len(measured),
        loss=loss,
        perturbed_loss=there,
        sharpness=there - loss,
        steps=max(0, steps - (train.max_steps - train.late_steps)),
    )
