"""Arithmetic over shards: correct under every engine because it never assumes a layout.

A rank may hold no shard at all (a tiny model on many ranks); it still takes part in the
reductions, which is why sums start from a zero tensor.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from orchestrator.errors import StageError
from orchestrator.training.engine import Engine, Shard

CLIP_EPSILON = 1e-6
"""Added to the norm before dividing, as ``torch.nn.utils.clip_grad_norm_`` does."""


def gradient(shard: Shard) -> Tensor:
    """Return a shard's gradient.

    Raises:
        StageError: ``forward_backward`` has not run yet.
    """
    if shard.grad is None:
        raise StageError(f"{shard.name} has no gradient: run forward_backward before using it")
    return shard.grad


def global_norm(engine: Engine, values: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all ranks' tensors (one per shard), 0-dim fp64; collective.

    It is accumulated in fp64 on the device; nothing is transferred to the host.
    """
    local = torch.zeros((), dtype=torch.float64, device=next(engine.module.parameters()).device)
    for value in values:
        local += torch.linalg.vector_norm(value, dtype=torch.float64).square()
    return engine.sum_over_shards(local).sqrt()


def gradient_norm(engine: Engine) -> Tensor:
    """Global norm of the gradients of the last ``forward_backward``, as `global_norm`."""
    return global_norm(engine, [gradient(shard) for shard in engine.shards()])


@torch.no_grad()
def clip_gradients(engine: Engine, max_norm: float | None, norm: float | None = None) -> float:
    """Scale all gradients down to a global norm of ``max_norm``; collective without ``norm``.

    Args:
        engine: After ``forward_backward``.
        max_norm: The bound; None only measures.
        norm: The gradients' global norm, if the caller has measured it.

    Returns:
        The norm before clipping (inf or nan when a gradient is not finite: nothing is scaled).
    """
    if norm is None:
        norm = float(gradient_norm(engine))
    factor = math.inf if max_norm is None else max_norm / (norm + CLIP_EPSILON)
    if math.isfinite(norm) and factor < 1:
        for shard in engine.shards():
            gradient(shard).mul_(factor)
    return norm


def part_of(full: Mapping[str, Tensor], shard: Shard) -> Tensor:
    """View of a full tensor's elements that belong to ``shard``, [n]; no communication.

    Args:
        full: Whole tensors by parameter name, each shaped like its parameter.
        shard: Any rank's shard.
    """
    return full[shard.name].reshape(-1)[shard.start : shard.start + shard.master.numel()]
