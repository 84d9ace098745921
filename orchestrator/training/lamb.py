"""LAMB (You et al. 2020, algorithm 2): Adam's direction, as long as the weights of each layer.

With moments m and v of the gradient and weight decay w, a layer x moves by

    r = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + w x
    x <- x - lr * (|x| / |r|) * r

A layer is one parameter. Where engines cut parameters, a flat tensor holds pieces of several layers
and other ranks hold their other pieces: squares are summed over the pieces and then over the ranks,
once per step.

Deviations, as in the authors' code: a layer whose |x| or |r| is 0 has the ratio 1; vectors (biases,
scales of norms) have it always, since a bias that begins at 0 would hardly move. phi is the
identity.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MIN_TRUST_RATIO_DIMS = 2
"""Only parameters with at least this many dimensions get a trust ratio."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements ``start : start + count`` of a flat tensor, which belong to one layer."""

    layer: int
    start: int
    count: int


class Lamb(Optimizer):
    """The optimizer.

    Args:
        params: Parameters or groups; each parameter is a layer, until :meth:`cut` says otherwise.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay, inside what is scaled.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        each = [p for group in self.param_groups for p in group["params"]]
        self.is_cut = False
        self._layers = len(each)
        self._sum: Callable[[Tensor], Tensor] = _alone
        self._pieces: Mapping[Tensor, Sequence[Piece]] = {
            parameter: [Piece(index, 0, parameter.numel())]
            for index, parameter in enumerate(each)
            if parameter.dim() >= MIN_TRUST_RATIO_DIMS
        }

    def cut(
        self,
        pieces: Mapping[Tensor, Sequence[Piece]],
        layers: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Say where layers are, in an engine that cuts them.

        Args:
            pieces: Tensor that is stepped → pieces of layers in it; what is in none is not scaled.
            layers: Number of layers, the same on every rank.
            total: Adds a tensor over the ranks; collective. Every rank steps the same groups.
        """
        self._pieces, self._layers, self._sum = pieces, layers, total
        self.is_cut = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        del closure
        for parameter, group in self._given():
            self._advance(parameter, group["betas"])
        ratios = self._ratios()
        for parameter, group in self._given():
            direction = self._direction(parameter, group)
            for piece in self._pieces.get(parameter, ()):
                _part(direction, piece).mul_(ratios[piece.layer])
            parameter.add_(direction, alpha=-group["lr"])

    def _given(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield parameter, group

    def _advance(self, parameter: Tensor, betas: tuple[float, float]) -> None:
        """Take the gradient into the moments."""
        state, gradient = self.state[parameter], parameter.grad
        if "step" not in state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1.0 - betas[0])
        state["exp_avg_sq"].mul_(betas[1]).addcmul_(gradient, gradient, value=1.0 - betas[1])

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return r, shaped like the parameter; computed twice per step rather than stored."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        count = float(state["step"])
        root = (state["exp_avg_sq"] / (1.0 - beta2**count)).sqrt_().add_(group["eps"])
        direction: Tensor = (state["exp_avg"] / (1.0 - beta1**count)).div_(root)
        return direction.add_(parameter, alpha=group["weight_decay"])

    def _ratios(self) -> Tensor:
        """Return |x| / |r| of each layer that this call steps, [layers] fp32; collective."""
        given = list(self._given())
        device = given[0][0].device if given else torch.device("cpu")
        squares = torch.zeros(2, self._layers, dtype=torch.float64, device=device)
        for parameter, group in given:
            pieces = self._pieces.get(parameter, ())
            direction = self._direction(parameter, group) if pieces else parameter
            for piece in pieces:
                for row, values in enumerate((parameter, direction)):
                    norm = torch.linalg.vector_norm(_part(values, piece), dtype=torch.float64)
                    squares[row, piece.layer] += norm.square()
        weights, directions = self._sum(squares).sqrt()
        return torch.where((weights > 0) & (directions > 0), weights / directions, 1.0).float()


def _alone(value: Tensor) -> Tensor:
    return value


def _part(values: Tensor, piece: Piece) -> Tensor:
    return values.view(-1)[piece.start : piece.start + piece.count]
