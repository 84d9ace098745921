"""AdamW whose two moments take one byte each (Dettmers et al. 2022, block-wise quantization).

A moment is cut into blocks of 256 elements; each block is divided by its largest magnitude, and
every element becomes the nearest of 256 values that lie dense near zero (the dynamic map of section
2.1).
The largest element of a block is represented exactly, so quantizing what was dequantized changes
nothing: a state that is stored in fp32 and read back continues bit for bit.

Deviations: the signed map has -1 in place of its smallest negative value, so that a block whose
largest element is negative keeps it too; tensors of fewer than 4096 elements keep fp32 moments (as
in the paper's released code); the update is written in plain torch, a tensor at a time.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

BLOCK = 256
MIN_8BIT_SIZE = 4096
"""Moments of parameters with fewer elements stay in fp32."""
EXPONENTS = 7
"""Powers of ten of the dynamic map."""
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""Moments, and whether they are signed."""


@cache
def dynamic_map(signed: bool) -> Tensor:
    """Return the 256 values in ascending order, from -1 (or 0) to 1.

    In the decade that ends at 10^-k lie twice as many values as in the one below it.
    """
    values = [0.0, 1.0]
    for power in range(EXPONENTS):
        count = 2 ** (power if signed else power + 1)
        edges = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
        decade = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (power - EXPONENTS + 1)).tolist()
        values += decade + ([-value for value in decade] if signed else [])
    if signed:
        values[values.index(max(v for v in values if v < 0))] = -1.0
    return torch.tensor(sorted(values), dtype=torch.float32)


def quantize(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Return the codes, uint8 [n], and each block's largest magnitude, fp32 [ceil(n / 256)].

    Args:
        values: fp32 [n].
        signed: Whether negative values occur.
    """
    missing = -len(values) % BLOCK
    blocks = torch.nn.functional.pad(values, (0, missing)).view(-1, BLOCK)
    largest = blocks.abs().amax(dim=1)
    scaled = blocks / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    table = dynamic_map(signed).to(values.device)
    codes = torch.bucketize(scaled, (table[:-1] + table[1:]) / 2, out_int32=True)
    return codes.to(torch.uint8).view(-1)[: len(values)], largest


def dequantize(codes: Tensor, largest: Tensor, signed: bool) -> Tensor:
    """Return fp32 values [n] of codes [n]."""
    values = dynamic_map(signed).to(codes.device)[codes.long()]
    scales = largest.repeat_interleave(BLOCK)[: len(codes)]
    return values * scales


class AdamW8bit(Optimizer):
    """The optimizer.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.float().view(-1)
                state = self.fp32_state(parameter)
                first, second, step = state["exp_avg"], state["exp_avg_sq"], state["step"] + 1
                beta1, beta2 = group["betas"]
                first.lerp_(gradient, 1.0 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
                count = float(step)
                root = (second / (1.0 - beta2**count)).sqrt_().add_(group["eps"])
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                update = (first / root).view_as(parameter)
                parameter.add_(update, alpha=-group["lr"] / (1.0 - beta1**count))
                self.load_fp32_state(parameter, state | {"step": step})

    def fp32_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return ``step`` (0-dim), both moments in fp32 [n], and state that others have added."""
        stored = self.state.get(parameter, {})
        if not stored:
            zeros = {
                name: torch.zeros(parameter.numel(), device=parameter.device) for name in MOMENTS
            }
            return {"step": torch.zeros(())} | zeros
        state = {key: value for key, value in stored.items() if not key.startswith("exp_avg")}
        for name, signed in MOMENTS.items():
            scales = stored.get(f"{name}_scale")
            value = stored[name]
            state[name] = value if scales is None else dequantize(value, scales, signed)
        return state

    def load_fp32_state(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        """Replace the state by one as :meth:`fp32_state` returns it."""
        stored = {key: value for key, value in state.items() if key not in MOMENTS}
        for name, signed in MOMENTS.items():
            value = state[name].reshape(-1)
            if parameter.numel() < MIN_8BIT_SIZE:
                stored[name] = value
            else:
                stored[name], stored[f"{name}_scale"] = quantize(value, signed)
        self.state[parameter] = stored
