"""Create flat regions: sharpness-aware ascent on the masters.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from orchestrator.continual.parts.base import Part
from orchestrator.continual.parts.configs import CreateConfig
from orchestrator.training.engines.engine import Engine, global_norm, gradient
from orchestrator.training.metrics import StepMetrics

EPSILON = 1e-12
"""Added to the norm, as in the C&F code."""


class Create(Part[CreateConfig]):
    """Descend by the gradient at the worst point near the weights.

    Reports ``sharpness``: the loss there minus the loss at the weights.
    """

    def gradient(self, engine: Engine, compute: Callable[[], StepMetrics]) -> StepMetrics:
        """Compute the gradient at ``w``, ascend, compute it there, return to ``w``."""
        if self.config.rho == 0:
            return compute()
        same_noise = keep_noise(next(engine.module.parameters()).device)
        metrics = compute()
        if not math.isfinite(metrics["loss"]):
            return metrics  # the guard in `descend` skips the step
        with perturbed(engine, self.config.rho, adaptive=self.config.adaptive):
            same_noise()
            there = compute()
        return StepMetrics(metrics, {"sharpness": there["loss"] - metrics["loss"]})


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
    norm = global_norm(engine, [s.master * g for s, g in pairs] if adaptive else grads)
    scale = rho / (float(norm) + EPSILON)
    saved = [shard.master.clone() for shard in shards]
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
