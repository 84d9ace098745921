"""Learning-rate schedules as pure functions of the optimizer step.

Nothing is stored: a resumed run asks for step t and gets what the uninterrupted run got. Shapes
follow ``transformers.optimization`` with one deliberate difference: warm-up counts from 1
(``(step + 1) / warmup_steps``), so that no step is spent at learning rate 0.
"""

import math

from orchestrator.training.config import ScheduleConfig, TrainConfig

INVERSE_SQRT_DEFAULT_TIMESCALE = 10_000
"""Time scale of ``inverse_sqrt`` without warm-up, as in transformers."""
WSD_DECAY_SHARE = 0.1
"""Share of the run that ``wsd`` decays over by default (MiniCPM, Hu et al. 2024)."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of a run."""
    return config.optimizer.learning_rate * factor(config.schedule, step, config.max_steps)


def factor(schedule: ScheduleConfig, step: int, max_steps: int) -> float:
    """Share of the peak learning rate at optimizer step ``step``.

    Args:
        schedule: Shape and its numbers.
        step: Index of the step that is about to be taken, from 0 to ``max_steps - 1``.
        max_steps: Length of the whole run.

    Returns:
        A number in [0, 1].
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if schedule.type == "constant":
        return 1.0
    if schedule.type == "inverse_sqrt":
        scale = warmup or INVERSE_SQRT_DEFAULT_TIMESCALE
        return 1.0 / math.sqrt((step - warmup + scale) / scale)
    start = warmup
    if schedule.type == "wsd":
        decay = schedule.decay_steps or max(1, round(WSD_DECAY_SHARE * max_steps))
        start = max(warmup, max_steps - decay)
    progress = min(1.0, max(0, step - start) / max(1, max_steps - start))
    return schedule.final_ratio + (1.0 - schedule.final_ratio) * _remaining(schedule, progress)


def _remaining(schedule: ScheduleConfig, progress: float) -> float:
    """What is left of the decay after ``progress`` in [0, 1], from 1 down to 0."""
    if schedule.type in ("cosine", "wsd"):
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule.type == "polynomial":
        return math.pow(1.0 - progress, schedule.power)
    return 1.0 - progress
