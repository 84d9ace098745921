"""Update rules that torch does not have: Lion, LAMB, and AdamW whose moments take one byte each.

No library's version is used: engines store every state in fp32 by its place in the parameter and
read it back under another layout, and LAMB must know which layers lie in the flat tensors of a
sharded engine.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from orchestrator.training.engines.on_device import left_out
from orchestrator.training.engines.weight_decay import decay, shrinking, taken


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): the sign of an interpolated momentum.

    Decay is decoupled and scaled by the learning rate, as in the paper; a good learning rate is 3
    to 10 times smaller than AdamW's.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Interpolation for the update, and decay of the momentum.
        weight_decay: Decoupled decay.
        cautious: As in ``weight_decay.decay``.
    """

    _step_supports_amp_scaling = True  # `on_device` gives it a flag

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        cautious: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self.cautious = cautious

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        del closure
        left = left_out(self)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum, (mix, fade) = state["exp_avg"], group["betas"]
                direction = torch.lerp(parameter.grad, momentum, mix).sign_()
                direction = taken(direction, 0.0, left)
                amount = group["lr"] * group["weight_decay"]
                decay(parameter, direction, amount, cautious=self.cautious, left=left)
                parameter.add_(direction, alpha=-group["lr"])
                momentum.lerp_(taken(parameter.grad, momentum, left), 1.0 - fade)


MIN_TRUST_RATIO_DIMS = 2
"""Only parameters with at least this many dimensions get a trust ratio."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements ``start : start + count`` of a flat tensor, which belong to one layer."""

    layer: int
    start: int
    count: int


class Lamb(Optimizer):
    """LAMB (You et al. 2020, algorithm 2): Adam's direction, as long as the weights of each layer.

    With moments m and v of the gradient and weight decay w, a layer x moves by

        r = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + w x
        x <- x - lr * (|x| / |r|) * r

    A layer is one parameter. Where engines cut parameters, a flat tensor holds pieces of several
    layers and other ranks hold their other pieces: squares are summed over the pieces and then over
    the ranks, once per step.

    Deviations, as in the authors' code: a layer whose |x| or |r| is 0 has the ratio 1; vectors
    (biases, scales of norms) have it always, since a bias that begins at 0 would hardly move. phi
    is the identity.

    Args:
        params: Parameters or groups; each parameter is a layer, until :meth:`cut` says otherwise.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay, inside what is scaled.
        cautious: Only the weights that Adam's direction shrinks are in r.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.cautious = cautious
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
                part_of_flat(direction, piece).mul_(ratios[piece.layer])
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
        decayed = shrinking(parameter, direction) if self.cautious else parameter
        return direction.add_(decayed, alpha=group["weight_decay"])

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
                    norm = torch.linalg.vector_norm(
                        part_of_flat(values, piece), dtype=torch.float64
                    )
                    squares[row, piece.layer] += norm.square()
        weights, directions = self._sum(squares).sqrt()
        return torch.where((weights > 0) & (directions > 0), weights / directions, 1.0).float()


def _alone(value: Tensor) -> Tensor:
    return value


def part_of_flat(values: Tensor, piece: Piece) -> Tensor:
    """Return a view of a piece's elements, [n]."""
    return values.view(-1)[piece.start : piece.start + piece.count]


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
    """AdamW whose two moments take one byte each (Dettmers et al. 2022, block-wise quantization).

    A moment is cut into blocks of 256 elements; each block is divided by its largest magnitude, and
    every element becomes the nearest of 256 values that lie dense near zero (the dynamic map of
    section 2.1). The largest element of a block is represented exactly, so quantizing what was
    dequantized changes nothing: a state that is stored in fp32 and read back continues bit for bit.

    Deviations: the signed map has -1 in place of its smallest negative value, so that a block whose
    largest element is negative keeps it too; tensors of fewer than 4096 elements keep fp32 moments
    (as in the paper's released code); the update is written in plain torch, one tensor at a time.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay.
        cautious: As in ``weight_decay.decay``.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.cautious = cautious

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
                update = (first / root).view_as(parameter)
                amount = group["lr"] * group["weight_decay"]
                decay(parameter, update, amount, cautious=self.cautious)
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
