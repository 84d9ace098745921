"""Decisions of a step that the device takes: whether the optimizer steps.

The host reads no number of the step to decide, so it queues the next one while the device works.
torch's fused AdamW has what this needs: where the tensor ``found_inf`` is 1, it leaves weights,
moments and step counts as they are (``torch.amp.GradScaler`` uses it). The optimizers of this
package that do the same say so by the same attribute, ``_step_supports_amp_scaling``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer


def reads_wait(device: torch.device) -> bool:
    """Return whether reading a number of a device waits for what was queued there before."""
    return device.type != "cpu"


def decides_on_device(optimizer: Optimizer) -> bool:
    """Return whether steps are decided on the device.

    Not where reading waits for nothing, as on the CPU, and not for an optimizer that cannot.
    """
    steps = [p for group in optimizer.param_groups for p in group["params"]]
    able = getattr(optimizer, "_step_supports_amp_scaling", False)
    return bool(able) and all(reads_wait(parameter.device) for parameter in steps)


@contextmanager
def stepping_where(optimizer: Optimizer, finite: Tensor | None) -> Iterator[None]:
    """Let the optimizer's steps within the block change nothing where ``finite`` is False.

    Args:
        optimizer: Its hooks find the flag, too.
        finite: 0-dim bool on the device; None: step.
    """
    flagged(optimizer, None if finite is None else finite.logical_not().float())
    try:
        yield
    finally:
        flagged(optimizer, None)


def flagged(optimizer: Optimizer, left: Tensor | None) -> None:
    """Give the optimizer the tensor that torch's fused kernels read, 0-dim fp32 of 0 or 1."""
    optimizer.found_inf = left  # type: ignore[attr-defined]  # as GradScaler does


def left_out(optimizer: Optimizer) -> Tensor | None:
    """Return the flag of the step that is being taken: 1 where it changes nothing; None: 0."""
    flag: Tensor | None = getattr(optimizer, "found_inf", None)
    return flag
