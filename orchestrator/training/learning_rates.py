"""Learning rates: the schedule over the steps of a run, and the usual peak of fine-tuning.

Schedules are pure functions of the optimizer step. Nothing is stored: a resumed run asks for step t
and gets what the uninterrupted run got. Shapes follow ``transformers.optimization`` with one
deliberate difference: warm-up counts from 1 (``(step + 1) / warmup_steps``), so that no step is
spent at learning rate 0.

The usual peak is what fine-tuning takes where a config gives none. AdamW's updates have the size of
the learning rate whatever the gradient, so the change of a layer's output grows with the number of
its inputs, and the rate that suits falls with the width (Yang et al. 2022, table 3). Three origins
are distinguished:

- Trained here: 2e-3 up to a width of 128 and falling with 1 / width above: these models are small
  and have seen little text.
- Imported: 5e-5 at BERT's width of 768 (Devlin et al. 2019, appendix A.3, tried 2e-5 to 5e-5),
  growing with 1 / width below that, at most 4e-4; on wider models 5e-5 * 768 / width.
- LoRA: ten times as much, as only a low-rank change is trained (Hu et al. 2021, table 9, has 4e-4
  to 5e-4 where all weights have 2e-5 to 5e-5), at most 5e-3.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.training.config import ScheduleConfig, TrainConfig

if TYPE_CHECKING:
    from orchestrator.zoo import Package, Zoo

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


NANO_RATE, NANO_WIDTH = 2e-3, 128
BERT_RATE, BERT_WIDTH = 5e-5, 768
IMPORTED_LIMIT = 4e-4
LORA_FACTOR, LORA_LIMIT = 10.0, 5e-3


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate and why it was chosen.

    Attributes:
        value: The peak.
        reason: For ``--check``, the log and the result.
    """

    value: float
    reason: str


def usual_rate(width: int, *, imported: bool, lora: bool) -> Rate:
    """Return the learning rate by the rule of this module.

    Args:
        width: ``hidden_size`` of the model.
        imported: Whether it descends from an imported checkpoint.
        lora: Whether adapters are trained instead of all weights.
    """
    if imported:
        value = min(IMPORTED_LIMIT, BERT_RATE * BERT_WIDTH / width)
        reason = f"an imported model of width {width}"
    else:
        value = NANO_RATE * min(1.0, NANO_WIDTH / width)
        reason = f"a model trained here, of width {width}"
    if lora:
        value = min(LORA_LIMIT, LORA_FACTOR * value)
        reason += ", with LoRA"
    return Rate(float(f"{value:.3g}"), reason)


def is_imported(zoo: "Zoo", package: "Package") -> bool:
    """Return whether a package, or one that it was made from, is an imported checkpoint."""
    if package.kind == "imported":
        return True
    return any(ancestor.kind == "imported" for ancestor in zoo.lineage(package.ref))


def rate_for(zoo: "Zoo", package: "Package", *, lora: bool) -> Rate:
    """Return the usual learning rate of a package."""
    width = int(package.read_json("config.json").get("hidden_size", NANO_WIDTH))
    return usual_rate(width, imported=is_imported(zoo, package), lora=lora)
