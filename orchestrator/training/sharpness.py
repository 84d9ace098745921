"""Sharpness-aware training and measurement: the gradient, and the loss, at the worst point nearby.

The gradient ``g' = grad L(w + e)`` is taken at the worst point near ``w``. Adaptive (ASAM, Kwon et
al. 2021, eq. 6 with the element-wise normalization ``T_w = |w|``), as the C&F code computes it:

    e_i = rho * w_i^2 * g_i / (|| |w| * g ||_2 + 1e-12)

plain (SAM, Foret et al. 2021, eq. 2):

    e_i = rho * g_i / (||g||_2 + 1e-12)

The norm runs over all trainable parameters of all ranks, so the radius does not depend on how the
model is cut, and ``g`` is the gradient of the whole window over all ranks (not each worker's own),
so the direction does not depend on the number of workers.

Deviation from the published code: both passes of a step see the same dropout noise (there the
second draws fresh noise), because the ascent must be that of the function the descent evaluates.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.training.descent import StepFunction, descend, plain_step
from orchestrator.training.engines.engine import Batch, Engine, global_norm, gradient, gradient_norm
from orchestrator.training.metrics import StepMetrics

EPSILON = 1e-12
"""Added to the norm, as in the C&F code."""


def worst_gradient(
    engine: Engine, compute: Callable[[], StepMetrics], rho: float, *, adaptive: bool
) -> StepMetrics:
    """Compute the gradient at ``w``, ascend, compute it there, return to ``w``; collective.

    Args:
        engine: Its gradients are those at the worst point afterwards.
        compute: Leaves the gradient of a window in the engine.
        rho: Radius; 0 computes once.
        adaptive: Scale by the weights (ASAM).

    Returns:
        The metrics at ``w``, and ``sharpness``: the loss there minus the loss at ``w``.
    """
    if rho == 0:
        return compute()
    same_noise = keep_noise(next(engine.module.parameters()).device)
    metrics = compute()
    if not math.isfinite(metrics["loss"]):
        return metrics  # the guard in `descend` skips the step
    with perturbed(engine, rho, adaptive=adaptive):
        same_noise()
        there = compute()
    return StepMetrics(metrics, {"sharpness": there["loss"] - metrics["loss"]})


def worst_step(max_grad_norm: float | None, rho: float, *, adaptive: bool) -> StepFunction:
    """Return the step function of sharpness-aware training: two gradients, one update.

    The gradient at the worst point is clipped.
    """

    def step(engine: Engine, window: Sequence[Batch], lr: float) -> StepMetrics:
        metrics = worst_gradient(
            engine, lambda: engine.forward_backward(window), rho, adaptive=adaptive
        )
        return descend(engine, metrics, lr, max_grad_norm=max_grad_norm)

    return step


@dataclass
class LateSteps:
    """A step function that is sharpness-aware from a step on.

    Attributes:
        first: First sharpness-aware step.
        rho: Radius.
        adaptive: Scale by the weights.
        max_grad_norm: Bound of the gradient's norm.
        step: The next step.
    """

    first: int
    rho: float
    adaptive: bool
    max_grad_norm: float | None
    step: int

    def __call__(self, engine: Engine, window: Sequence[Batch], lr: float) -> StepMetrics:
        """Take one step."""
        late = self.step >= self.first
        self.step += 1  # also where the window has no label and the step is skipped
        if not late:
            return plain_step(self.max_grad_norm)(engine, window, lr)
        return worst_step(self.max_grad_norm, self.rho, adaptive=self.adaptive)(engine, window, lr)


def perturbed_losses(
    engine: Engine, batches: Sequence[Batch], rho: float, *, adaptive: bool
) -> tuple[float, float]:
    """Return the loss at the weights and at the worst point near them, in eval mode; collective.

    The weights are afterwards what they were, bit by bit, and published. Without a finite gradient
    the second loss is NaN.

    Args:
        engine: Its gradients are replaced.
        batches: This rank's; the same number on every rank.
        rho: Radius.
        adaptive: Scale by the weights.
    """
    training = engine.module.training
    engine.module.eval()
    try:
        loss = engine.evaluate(batches)["loss"]
        engine.forward_backward(batches)
        if not math.isfinite(float(gradient_norm(engine))):
            return loss, math.nan
        with perturbed(engine, rho, adaptive=adaptive):
            there = engine.evaluate(batches)["loss"]
    finally:
        engine.module.train(training)
        engine.refresh()
    return loss, there


@contextmanager
def perturbed(engine: Engine, rho: float, *, adaptive: bool) -> Iterator[None]:
    """Hold the model at ``w + e`` within the block; afterwards the masters are ``w``, bit by bit.

    Collective. The ascent follows the gradients of the last ``forward_backward``. On normal exit
    masters are restored but not published: the optimizer step that follows publishes them. On an
    exception they are published too.

    Args:
        engine: After ``forward_backward``.
        rho: Radius; 0 leaves the model untouched.
        adaptive: Scale by the weights (ASAM).
    """
    if rho == 0:
        yield
        return
    saved = _ascend(engine, rho, adaptive=adaptive)
    try:
        engine.refresh()
        yield
    except BaseException:
        _restore(engine, saved)
        engine.refresh()
        raise
    _restore(engine, saved)


@torch.no_grad()
def _ascend(engine: Engine, rho: float, *, adaptive: bool) -> list[Tensor]:
    """Move the masters to ``w + e``; return copies of ``w``."""
    shards = engine.shards()
    grads = [gradient(shard).to(shard.master.dtype) for shard in shards]
    pairs = list(zip(shards, grads, strict=True))
    norm = float(global_norm(engine, [s.master * g for s, g in pairs] if adaptive else grads))
    saved = [shard.master.clone() for shard in shards]
    if not math.isfinite(norm):
        return saved  # an overflow of fp16: the second pass has it as well, and the step is skipped
    scale = rho / (norm + EPSILON)
    for shard, grad in pairs:
        if adaptive:
            shard.master.addcmul_(shard.master.square(), grad, value=scale)
        else:
            shard.master.add_(grad, alpha=scale)
    return saved


@torch.no_grad()
def _restore(engine: Engine, saved: list[Tensor]) -> None:
    """Copy ``w`` back: subtracting ``e`` would round."""
    for shard, weights in zip(engine.shards(), saved, strict=True):
        shard.master.copy_(weights)


def keep_noise(device: torch.device) -> Callable[[], None]:
    """Remember where the generators of a device stand.

    Returns:
        A function that sets them back: what follows draws the same noise again.
    """
    state = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore() -> None:
        torch.set_rng_state(state)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)

    return restore
