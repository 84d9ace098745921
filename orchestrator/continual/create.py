"""Create flat regions: sharpness-aware ascent on the masters.

Adaptive (ASAM, Kwon et al. 2021, eq. 6 with the element-wise normalisation ``T_w = |w|``), as the
C&F code computes it:

    e_i = rho * w_i^2 * g_i / (|| |w| * g ||_2 + 1e-12)

plain (SAM, Foret et al. 2021, eq. 2): ``e_i = rho * g_i / (||g||_2 + 1e-12)``. The norm runs over
all trainable parameters of all ranks, so the radius does not depend on how the model is cut, and
``g`` is the gradient of the whole window over all ranks (not each worker's own), so the direction
does not depend on the number of workers. Deviation: both passes of a step see the same dropout
noise, because the ascent is that of the function the descent then evaluates; the published code
draws fresh noise.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from orchestrator.training.engine import Engine, Shard
from orchestrator.training.shards import global_norm, gradient

EPSILON = 1e-12


@contextmanager
def perturbed(engine: Engine, rho: float, *, adaptive: bool) -> Iterator[None]:
    """Inside, the model is at ``w + e``; afterwards the masters are ``w`` again, bit by bit.

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
    norm = global_norm(engine, [_scaled_gradient(shard, adaptive=adaptive) for shard in shards])
    scale = rho / (norm + EPSILON)
    saved = [shard.master.clone() for shard in shards]
    for shard in shards:
        grad = gradient(shard).to(shard.master.dtype)
        if adaptive:
            shard.master.addcmul_(shard.master.square(), grad, value=scale)
        else:
            shard.master.add_(grad, alpha=scale)
    return saved


def _scaled_gradient(shard: Shard, *, adaptive: bool) -> Tensor:
    grad = gradient(shard).to(shard.master.dtype)
    return shard.master * grad if adaptive else grad


@torch.no_grad()
def _restore(engine: Engine, saved: list[Tensor]) -> None:
    """Copy ``w`` back (subtracting ``e`` would round)."""
    for shard, weights in zip(engine.shards(), saved, strict=True):
        shard.master.copy_(weights)
