"""The second half of every step: clip, guard, update.

The guard needs two numbers of the step, its loss and the norm of its gradient. Where the engine
can leave a step out by a flag on the device, the host reads neither: the loop learns of a skipped
step when it reads the metrics of the logging interval.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from orchestrator.training.engines.engine import (
    Batch,
    Engine,
    Projection,
    clip_gradients,
    clip_unread,
    gradient_norm,
)
from orchestrator.training.engines.precision import MIN_SCALE
from orchestrator.training.metrics import OVERFLOW, SKIPPED, StepMetrics
from orchestrator.training.objective import ExtraLoss

StepFunction = Callable[[Engine, Sequence[Batch], float], StepMetrics]
"""``(engine, window, lr) -> metrics``; takes one optimizer step, or skips it (``skipped``: 1)."""


def descend(
    engine: Engine,
    metrics: StepMetrics,
    lr: float,
    *,
    max_grad_norm: float | None,
    project: Projection | None = None,
) -> StepMetrics:
    """Clip, guard, step: the second half of every step function.

    A loss or gradient norm that is not finite skips the step on every rank (both numbers are
    global) and leaves weights and optimizer untouched. The device decides where the engine lets
    it and the host has nothing to do in between.

    Args:
        engine: After ``forward_backward``.
        metrics: What that returned.
        lr: Learning rate of this step.
        max_grad_norm: Bound of the global gradient norm; None: only measure.
        project: Passed on to ``engine.step``.

    Returns:
        ``metrics`` with ``grad_norm`` (before clipping), ``learning_rate`` and ``skipped``; with
        ``overflow`` instead of that, if a lower loss scale may do.
    """
    unread = gradient_norm(engine)
    if engine.decides_on_device and project is None:
        return _descend_unread(engine, metrics, lr, unread, max_grad_norm)
    # The step's one transfer from the device: what decides on clipping and skipping.
    loss, norm = torch.stack([metrics.unread("loss").to(unread), unread]).tolist()
    decided = {"loss": loss, "grad_norm": norm, "learning_rate": lr, SKIPPED: 0.0}
    if math.isfinite(loss) and math.isfinite(norm):
        clip_gradients(engine, max_grad_norm, norm)
        engine.set_lr(lr)
        engine.step(project)
        return StepMetrics(metrics, decided)
    lowered = engine.skip()  # publishes: masters may have been restored since the last time
    reason = OVERFLOW if lowered and math.isfinite(loss) else SKIPPED
    return StepMetrics(metrics, decided, {reason: 1.0})


def _descend_unread(
    engine: Engine, metrics: StepMetrics, lr: float, norm: Tensor, max_grad_norm: float | None
) -> StepMetrics:
    """Do what `descend` does without a transfer: the device leaves the step or takes it."""
    loss = metrics.unread("loss").to(norm)
    clip_unread(engine, max_grad_norm, norm)
    engine.set_lr(lr)
    finite = loss.isfinite() & norm.isfinite()
    engine.step(finite=finite)
    left = finite.logical_not().double()
    decided = {"loss": loss, "grad_norm": norm, SKIPPED: left}
    if "loss_scale" in metrics:
        lowered = metrics.unread("loss_scale").to(norm) > MIN_SCALE
        decided[OVERFLOW] = left * lowered * loss.isfinite()
        decided[SKIPPED] = left - decided[OVERFLOW]
    return StepMetrics(metrics, decided, {"learning_rate": lr})


def plain_step(max_grad_norm: float | None, extra: Sequence[ExtraLoss] = ()) -> StepFunction:
    """Return the step function of ordinary training: one gradient, clipped, one update.

    Args:
        max_grad_norm: Bound of the global gradient norm; None: never clip.
        extra: More loss terms of every step.
    """

    def step(engine: Engine, window: Sequence[Batch], lr: float) -> StepMetrics:
        metrics = engine.forward_backward(window, extra)
        return descend(engine, metrics, lr, max_grad_norm=max_grad_norm)

    return step
