"""Decoupled weight decay, of every weight or of those that the update shrinks anyway (cautious).

Cautious Weight Decay (Chen et al. 2025, arXiv 2510.12402, algorithm 1), with the update u that the
optimizer subtracts and elementwise products:

    x <- x - eta (u + lambda 1[u x >= 0] x)

No library's version is used: the fused AdamW of torch decays every weight.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from orchestrator.training.engines.on_device import left_out

CHUNK = 1 << 20
"""Elements that are treated at a time, so that no second copy of a flat tensor is made."""
DECAY = "cautious_decay"
"""Key of a group's decay where AdamW's own is off."""


def decay(
    values: Tensor, update: Tensor, amount: float, *, cautious: bool, left: Tensor | None = None
) -> None:
    """Multiply weights by ``1 - amount``, in place.

    Args:
        values: The weights.
        update: Has the sign of what the optimizer subtracts, shaped like them.
        amount: Learning rate times decay.
        cautious: Only where the update and the weight do not have opposite signs.
        left: 0-dim, 1 where the step is left out; None: it is taken.
    """
    if not amount:
        return
    if not cautious:
        values.mul_(1.0 - amount if left is None else torch.where(left == 0, 1.0 - amount, 1.0))
        return
    for part, direction in _chunks(values, update):
        part.sub_(taken(shrinking(part, direction), 0.0, left), alpha=amount)


def taken(values: Tensor, otherwise: Tensor | float, left: Tensor | None) -> Tensor:
    """Return values of a step, and something else where it is left out.

    Args:
        values: Any, also not finite where the step is left out.
        otherwise: Shaped like them, or a number.
        left: 0-dim, 1 where the step is left out; None: it is taken.
    """
    return values if left is None else torch.where(left == 0, values, otherwise)


def shrinking(values: Tensor, update: Tensor) -> Tensor:
    """Return the weights that the update does not move away from 0, and 0 for the others."""
    return torch.where(values * update.sign() >= 0, values, 0.0)


def decay_cautiously(optimizer: Optimizer) -> None:
    """Replace the decay of torch's AdamW, whose update has the sign of its new first moment."""
    for group in optimizer.param_groups:
        group[DECAY], group["weight_decay"] = group["weight_decay"], 0.0

    @torch.no_grad()
    def before(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in stepped.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    first = stepped.state[parameter].get("exp_avg")
                    amount = group["lr"] * group[DECAY]
                    beta, left = group["betas"][0], left_out(stepped)
                    decay_before_adam(parameter, first, beta, amount, left)

    optimizer.register_step_pre_hook(before)


def decay_before_adam(
    parameter: Tensor,
    first: Tensor | None,
    beta: float,
    amount: float,
    left: Tensor | None = None,
) -> None:
    """Decay a parameter cautiously before an AdamW step without decay.

    Args:
        parameter: With its gradient.
        first: Its first moment; None before the first step.
        beta: Decay rate of that.
        amount: Learning rate times decay.
        left: 0-dim, 1 where the step is left out; None: it is taken.
    """
    gradient = parameter.grad
    if not amount or gradient is None:
        return
    for part, slope, moment in _chunks(parameter, gradient, gradient if first is None else first):
        decayed = shrinking(part, moment.lerp(slope, 1.0 - beta))
        part.sub_(taken(decayed, 0.0, left), alpha=amount)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching views of the same elements."""
    for start in range(0, tensors[0].numel(), CHUNK):
        yield tuple(tensor.view(-1)[start : start + CHUNK] for tensor in tensors)
