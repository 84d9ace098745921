"""Muon (Jordan et al. 2024): hidden matrices step along their orthogonalized momentum.

``torch.optim.Muon`` is not used: it takes whole 2-D parameters and nothing else. Engines cut
matrices over ranks, one tensor may hold several (experts, the gates of a recurrent layer), and the
other parameters of the model need AdamW in the same optimizer.

With gradient G, momentum B, rate eta, decay lambda, and mu = ``momentum``, a matrix X of m rows and
n columns moves by

    B <- mu B + (1 - mu) G
    O  = NS5((1 - mu) G + mu B)
    X <- X - eta lambda X - eta 0.2 sqrt(max(m, n)) O

NS5 is five steps of the Newton-Schulz iteration on O / |O|: X <- a X + (b A + c A A) X with
A = X X', which brings all singular values near 1. The factor 0.2 sqrt(max(m, n)) gives updates the
size of AdamW's (Liu et al. 2025, eq. 4), so both kinds of parameters share one learning rate.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from orchestrator.training.engines.on_device import left_out
from orchestrator.training.engines.update_rules import Piece, part_of_flat
from orchestrator.training.engines.weight_decay import decay, decay_before_adam, taken

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the authors: the steepest slope at 0 that keeps singular values near 1."""
ITERATIONS = 5
EPSILON = 1e-7
"""Smallest norm that a matrix is divided by, as in the authors' code."""
RMS_OF_ADAMW = 0.2


@dataclass(frozen=True, slots=True)
class Stack:
    """Matrices of one size that lie one after the other in a parameter."""

    count: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Elements of one matrix."""
        return self.rows * self.columns

    @property
    def scale(self) -> float:
        """Factor of the learning rate."""
        return RMS_OF_ADAMW * math.sqrt(max(self.rows, self.columns))


@torch.no_grad()
def orthogonalized(matrix: Tensor, compute: torch.dtype) -> Tensor:
    """Return about U V' of the singular value decomposition U S V', [m, n].

    Args:
        matrix: [m, n].
        compute: Number format of the products and of the result.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(compute)
    x = x / x.norm().clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Spread(Protocol):
    """Orthogonalizes matrices that may be cut over ranks; collective."""

    def __call__(
        self, numbers: Sequence[int], piece: Callable[[int], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and this rank's piece [n] of every result that it has a piece of.

        Args:
            numbers: Matrices of this call, the same on every rank.
            piece: Number of a matrix that this rank has a piece of → that piece [n].
        """
        ...


class Muon(Optimizer):
    """Muon for the groups that have ``stacks``, AdamW for the others.

    A group's ``stacks`` has a :class:`Stack` for each of its parameters.

    Args:
        params: Groups.
        lr: Learning rate of both.
        betas: Decay rates of AdamW's moments.
        eps: Added to the root of AdamW's second moment.
        momentum: Decay rate of Muon's momentum.
        compute: Number format of the Newton-Schulz iteration.
        cautious: Decay only where the update shrinks the weight (``weight_decay.decay``).
    """

    _step_supports_amp_scaling = True  # `on_device` gives it a flag

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        momentum: float = 0.95,
        *,
        compute: torch.dtype = torch.float32,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "stacks": None}
        super().__init__(params, defaults)
        self.momentum, self.compute, self.cautious = momentum, compute, cautious
        self.is_cut = False
        self._stacks: list[Stack] = []
        """One entry for each matrix."""
        self._pieces: dict[Tensor, list[Piece]] = {}
        self._numbers: Mapping[Tensor, Sequence[int]]
        self._spread: Spread = self._alone
        for group in self.param_groups:
            for parameter, stack in zip(group["params"], group["stacks"] or (), strict=False):
                first = len(self._stacks)
                self._pieces[parameter] = [
                    Piece(first + k, k * stack.size, stack.size) for k in range(stack.count)
                ]
                self._stacks += [stack] * stack.count
        self._numbers = {p: [each.layer for each in own] for p, own in self._pieces.items()}

    def cut(
        self,
        stacks: Sequence[Stack],
        pieces: Mapping[Tensor, list[Piece]],
        numbers: Mapping[Tensor, Sequence[int]],
        spread: Spread,
    ) -> None:
        """Say where matrices are, in an engine that cuts them.

        Args:
            stacks: Of each matrix, by its number, the same on every rank.
            pieces: Tensor that is stepped → pieces of matrices in it.
            numbers: Tensor that is stepped → matrices in it or in its counterpart on other ranks.
            spread: Orthogonalizes.
        """
        self._stacks, self._pieces, self._numbers = list(stacks), dict(pieces), numbers
        self._spread = spread
        self.is_cut = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; collective where matrices are cut."""
        del closure
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            if group["stacks"] is None:
                self._adamw([p for p in given if p.numel()], group)
            else:
                self._muon(given, group)

    def _muon(self, given: Sequence[Tensor], group: dict[str, Any]) -> None:
        left = left_out(self)
        for parameter in given:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"]
            assert parameter.grad is not None
            momentum.lerp_(taken(parameter.grad, momentum, left), 1.0 - self.momentum)
        places = {p.layer: (held, p) for held in given for p in self._pieces.get(held, ())}

        def piece(number: int) -> Tensor:
            held, place = places[number]
            assert held.grad is not None
            gradient = part_of_flat(held.grad, place)
            return gradient.lerp(
                part_of_flat(self.state[held]["momentum_buffer"], place), self.momentum
            )

        numbers = sorted({number for held in given for number in self._numbers.get(held, ())})
        for number, computed in self._spread(numbers, piece):
            held, place = places[number]
            values, scale = part_of_flat(held, place), self._stacks[number].scale
            direction = taken(computed.to(values.device), 0.0, left)  # there if offloaded
            amount = group["lr"] * group["weight_decay"]
            decay(values, direction, amount, cautious=self.cautious, left=left)
            values.add_(direction, alpha=-group["lr"] * scale)

    def _alone(
        self, numbers: Sequence[int], piece: Callable[[int], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        for number in numbers:
            stack = self._stacks[number]
            matrix = piece(number).view(stack.rows, stack.columns)
            yield number, orthogonalized(matrix, self.compute).reshape(-1)

    def _adamw(self, given: Sequence[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in given]
        for parameter, state in zip(given, states, strict=True):
            if "step" not in state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        if not given:
            return
        (beta1, beta2), decays = group["betas"], group["weight_decay"]
        if self.cautious:
            for parameter, state in zip(given, states, strict=True):
                amount = group["lr"] * decays
                decay_before_adam(parameter, state["exp_avg"], beta1, amount, left_out(self))
            decays = 0.0
        adamw(
            list(given),
            [parameter.grad for parameter in given if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=decays,
            eps=group["eps"],
            maximize=False,
            found_inf=left_out(self),
        )
