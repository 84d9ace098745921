"""Arithmetic over shards: correct under every engine because it never assumes a layout.

A rank may hold no shard at all (a tiny model on many ranks); it still takes part in the
reductions, which is why sums start from a zero tensor.
"""

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


def global_norm(engine: Engine, values: Sequence[Tensor]) -> float:
    """Euclidean norm over all ranks' tensors (one per shard), accumulated in fp64; collective."""
    local = torch.zeros((), dtype=torch.float64)
    for value in values:
        local += torch.linalg.vector_norm(value, dtype=torch.float64).square().cpu()
    return float(engine.sum_over_shards(local).sqrt())


@torch.no_grad()
def clip_gradients(engine: Engine, max_norm: float | None) -> float:
    """Scale all gradients down to a global norm of ``max_norm``; collective.

    Args:
        engine: After ``forward_backward``.
        max_norm: The bound; None only measures.

    Returns:
        The norm before clipping (inf or nan when a gradient is not finite: nothing is scaled).
    """
    shards = engine.shards()
    norm = global_norm(engine, [gradient(shard) for shard in shards])
    if max_norm is not None and norm < float("inf"):
        factor = max_norm / (norm + CLIP_EPSILON)
        if factor < 1:
            for shard in shards:
                gradient(shard).mul_(factor)
    return norm


def part_of(full: Mapping[str, Tensor], shard: Shard) -> Tensor:
    """View of a full tensor's elements that belong to ``shard``, [n]; no communication.

    Args:
        full: Whole tensors by parameter name, each shaped like its parameter.
        shard: Any rank's shard.
    """
    return full[shard.name].reshape(-1)[shard.start : shard.start + shard.master.numel()]
