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
    if schedule.type == "infinite":
        return _infinite(schedule, step - warmup, max_steps - warmup)
    start = warmup + schedule.hold_steps
    if schedule.type == "wsd":
        decay = schedule.decay_steps or max(1, round(WSD_DECAY_SHARE * max_steps))
        start = max(warmup, max_steps - decay)
    progress = min(1.0, max(0, step - start) / max(1, max_steps - start))
    if schedule.type == "tri_stage":
        return math.pow(schedule.final_ratio, progress)
    return schedule.final_ratio + (1.0 - schedule.final_ratio) * _remaining(schedule, progress)


def _remaining(schedule: ScheduleConfig, progress: float) -> float:
    """Return the fraction that is left of the decay after ``progress`` in [0, 1]: from 1 to 0."""
    if schedule.type == "cosine_restarts" and progress < 1.0:
        progress = (progress * schedule.cycles) % 1.0
    if schedule.type in ("cosine", "cosine_restarts", "wsd"):
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule.type == "polynomial":
        return math.pow(1.0 - progress, schedule.power)
    return 1.0 - progress


def _infinite(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Cosine cooldown, constant trunk, exponential release (Ibrahim et al. 2024, section 6.3).

    Without ``decay_steps`` nothing depends on the length of the run: the trunk can be continued at
    any time, and a branch that is released begins exactly where the trunk is.

    Args:
        schedule: Its numbers.
        step: Steps since the warm-up.
        steps: Steps of the run after the warm-up.
    """
    trunk, cooldown = schedule.constant_ratio, schedule.cooldown_steps
    if step < cooldown:
        return trunk + (1.0 - trunk) * 0.5 * (1.0 + math.cos(math.pi * step / cooldown))
    if schedule.decay_steps is None or step < steps - schedule.decay_steps:
        return trunk
    progress = (step - (steps - schedule.decay_steps)) / schedule.decay_steps
    return trunk * math.pow(schedule.final_ratio / trunk, progress)
