"""Importance of weights: squared gradients, sample by sample, summed as they come.

Squaring a batch's mean gradient would give about 1/B of it. One accumulator is held, not N
gradients (libraries for per-sample gradients, such as ``torch.func.vmap`` and opacus, hold a
gradient per sample of a chunk, and know nothing of sharded weights).
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from orchestrator.modeling.interfaces import Batch

Importance = dict[str, Tensor]
"""fp32 tensors by parameter name, each shaped like its parameter, all >= 0."""


def squared_gradients(
    run: Callable[[Batch], Mapping[str, Tensor]],
    weights: Mapping[str, Tensor],
    samples: Iterable[Batch],
) -> tuple[Importance, int]:
    """Sum the squared gradients of the losses of single samples.

    Args:
        run: The model in eval mode at ``weights``; its losses are the outputs ``loss.<head>``.
        weights: What to differentiate with respect to.
        samples: Batches of one labelled sample.

    Returns:
        The sums, 0 where no loss depends on a weight, and the number of samples.
    """
    sums = {name: torch.zeros_like(value) for name, value in weights.items()}
    count = 0
    for batch in samples:
        losses = [value for key, value in run(batch).items() if key.startswith("loss.")]
        gradients = torch.autograd.grad(
            sum(losses[1:], losses[0]), list(weights.values()), allow_unused=True
        )
        for total, grad in zip(sums.values(), gradients, strict=True):
            if grad is not None:
                total.add_(grad.square())
        count += 1
    return sums, count
