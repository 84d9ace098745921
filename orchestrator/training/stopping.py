"""Best evaluation so far, and early stopping."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.training.config import EarlyStoppingConfig

HIGHER_IS_BETTER = ("accuracy",)
"""Prefixes of the names of metrics to maximize; all others are minimized."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation of a run.

    Attributes:
        step: Steps done when it was made; -1 before the first.
        value: The metric then.
        since: Evaluations after it.
    """

    step: int = -1
    value: float = float("nan")
    since: int = 0


def best_of(
    evaluations: Iterable[tuple[int, float]],
    config: EarlyStoppingConfig,
    higher_is_better: bool | None = None,
) -> Best:
    """Return the best of (steps done, value) in order; a tie or a gain below min_delta is none.

    Any number is better than none: a first evaluation that is not a number would never be beaten.

    Args:
        evaluations: In order of steps.
        config: What is watched, and which gain counts.
        higher_is_better: Which direction is better; None: it follows from the metric's name.
    """
    if higher_is_better is None:
        higher_is_better = config.metric.startswith(HIGHER_IS_BETTER)
    sign = 1.0 if higher_is_better else -1.0
    best = Best()
    for step, value in evaluations:
        first_number = math.isnan(best.value) and not math.isnan(value)
        gained = sign * (value - best.value) > config.min_delta
        if best.step < 0 or first_number or gained:
            best = Best(step, value)
        else:
            best = Best(best.step, best.value, best.since + 1)
    return best
