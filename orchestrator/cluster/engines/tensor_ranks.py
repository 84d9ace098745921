"""Communication between the ranks that compute one layer together, with gradients.

Shoeybi et al. 2020 (Megatron-LM), section 3: ``enter`` is f and ``leave`` is g of figure 3.
Korthikanti et al. 2022, section 4.2.2: with the sequence cut outside of the layers, ``enter``
gathers it and ``leave`` cuts it again; the bytes sent are the same.

Legend: B batch, S positions, D width, t tensor ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from orchestrator.data.randomness import derive_seed


class _Copied(torch.autograd.Function):
    """The same value on every rank, whose gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:  # type: ignore[override]
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _sum(gradient, ctx.group), None


class _Summed(torch.autograd.Function):
    """The sum of all ranks' values, on every rank; the gradient is that of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:  # type: ignore[override]
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def copied(x: Tensor, group: ProcessGroup) -> Tensor:
    """Return ``x``, which every rank has, where each rank computes another part from it."""
    result: Tensor = _Copied.apply(x, group)  # type: ignore[no-untyped-call]
    return result


def summed(x: Tensor, group: ProcessGroup) -> Tensor:
    """Return the sum of what the ranks have computed, for what every rank goes on with."""
    result: Tensor = _Summed.apply(x, group)  # type: ignore[no-untyped-call]
    return result


def _sum(x: Tensor, group: ProcessGroup) -> Tensor:
    total = x.contiguous().clone()
    distributed.all_reduce(total, group=group)
    return total


@dataclass
class TensorRanks:
    """The ranks that hold the parts of one layer, and this one among them.

    Attributes:
        group: Their process group.
        rank: This process's place in it.
        size: t.
    """

    group: ProcessGroup
    rank: int
    size: int

    def enter(self, x: Tensor) -> Tensor:
        """Return what a layer's first products read, for [B, S, D]."""
        return copied(x, self.group)

    def leave(self, partial: Tensor) -> Tensor:
        """Return the sum of the ranks' products [B, S, D]."""
        return summed(partial, self.group)

    @contextmanager
    def own_noise(self, rate: float, device: torch.device) -> Iterator[None]:
        """Draw noise of this rank's own, where ranks hold different heads or channels.

        Outside, generators of the ranks stay equal: residual dropout must be. The draw that seeds
        the noise advances them, so that layers differ. Noise is a function of the step's seed, the
        layer and the tensor rank, hence of ``engine.tensor_parallel``.

        Args:
            rate: Dropout rate; 0: nothing is drawn.
            device: Whose generator is used.
        """
        if not rate:
            yield
            return
        seed = int(torch.randint(2**31 - 1, (), device="cpu"))
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(derive_seed(seed, "tensor", self.rank))
            yield
