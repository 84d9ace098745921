"""Lion (Chen et al. 2023, algorithm 2): the sign of an interpolated momentum.

Decay is decoupled and scaled by the learning rate, as in the paper; a good learning rate is 3 to 10
times smaller than AdamW's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """The optimizer.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Interpolation for the update, and decay of the momentum.
        weight_decay: Decoupled decay.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum, (mix, decay) = state["exp_avg"], group["betas"]
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                direction = torch.lerp(parameter.grad, momentum, mix).sign_()
                parameter.add_(direction, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1.0 - decay)
