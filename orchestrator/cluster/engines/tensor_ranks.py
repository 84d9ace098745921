"""Communication between the ranks that compute one layer together, with gradients.

Shoeybi et al. 2020 (Megatron-LM), section 3: ``enter`` is f and ``leave`` is g of figure 3.
Korthikanti et al. 2022, section 4.2.2: with the sequence cut outside of the layers, ``enter``
gathers it and ``leave`` cuts it again; the bytes sent are the same.

Legend: B batch, S positions, D width, t tensor ranks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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


class _Moved(torch.autograd.Function):
    """One of the collectives along the sequence; the gradient goes back through its counterpart."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, group: ProcessGroup, move: "Move", back: "Move"
    ) -> Tensor:
        ctx.group, ctx.back = group, back
        return move(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.back(gradient, ctx.group), None, None, None


Move = Callable[[Tensor, ProcessGroup], Tensor]
"""Parts or wholes along the sequence, [B, s, D], to wholes or parts."""


def _gather(part: Tensor, group: ProcessGroup) -> Tensor:
    """Return the parts of all ranks one after the other, [B, t s, D]."""
    rows, length, width = part.shape
    found = part.new_empty(group.size() * rows, length, width)
    distributed.all_gather_single(found, part.contiguous(), group=group)
    return found.view(-1, rows, length, width).transpose(0, 1).reshape(rows, -1, width)


def _own(whole: Tensor, group: ProcessGroup) -> Tensor:
    """Return this rank's part of [B, t s, D]."""
    return whole.chunk(group.size(), dim=1)[group.rank()].contiguous()


def _sum_and_cut(partial: Tensor, group: ProcessGroup) -> Tensor:
    """Return this rank's part of the sum over ranks of [B, t s, D]."""
    rows, _, width = partial.shape
    parts = partial.reshape(rows, group.size(), -1, width).transpose(0, 1).contiguous()
    found = torch.empty_like(parts[0])
    distributed.reduce_scatter_single(found, parts.flatten(0, 1), group=group)
    return found


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
        sequence: Between layers each rank has a part of the positions, not all of them.
        length: S of the pass that is running, where positions are cut: parts are padded to equal
            lengths.
    """

    group: ProcessGroup
    rank: int
    size: int
    sequence: bool = False
    length: int = 0

    def enter(self, x: Tensor) -> Tensor:
        """Return what a layer's first products read, [B, S, D]."""
        if not self.sequence:
            return copied(x, self.group)
        return self._moved(x, _gather, _sum_and_cut)[:, : self.length]

    def leave(self, partial: Tensor) -> Tensor:
        """Return the sum of the ranks' products [B, S, D], of this rank's positions if cut."""
        if not self.sequence:
            return summed(partial, self.group)
        return self._moved(self._padded(partial), _sum_and_cut, _gather)

    def begin(self, x: Tensor) -> Tensor:
        """Return this rank's positions of what a stack of blocks reads, [B, S, D]."""
        self.length = x.shape[1]
        return self._moved(self._padded(x), _own, _gather)

    def end(self, part: Tensor) -> Tensor:
        """Return all positions of a stack's output, [B, S, D], on every rank."""
        whole = self._moved(part, _gather, _own)
        if whole.shape[1] != self.length:
            whole = whole[:, : self.length]
        # Hooks of FSDP2 hang on what a block returns, and a view may lose them. The parts of one
        # sample follow each other in memory, so that gathering them returns a view, too.
        return whole.clone() if whole._is_view() else whole

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, -x.shape[1] % self.size))

    def _moved(self, x: Tensor, move: Move, back: Move) -> Tensor:
        moved: Tensor = _Moved.apply(x, self.group, move, back)  # type: ignore[no-untyped-call]
        return moved

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
