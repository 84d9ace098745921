"""First values of parameters: a pure function of (seed, parameter name, offset).

A generator that is *advanced* gives a parameter other values when the parameters before it are not
drawn, so every rank of a sharded model would have to draw the whole model to get its own part.
Here element ``i`` of a flattened parameter depends on nothing but the seed, the parameter's name
and ``i``: any slice can be filled alone, with the same bits as a fill of the whole.

Method: the name and the seed are hashed to a key of Philox-4x64-10 (Salmon, Moraes, Dror, Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011), whose counter is the offset. Its words
become uniform numbers of 24 bits, and those become normal ones in pairs (Box and Muller, "A note on
the generation of random normal deviates", 1958), as in torch's own kernel. Parameters are made in
blocks of a fixed place and length, because vectorized logarithms may round the tail of an array
otherwise than its middle; a slice computes the blocks that it touches.

No library does this: generators of torch are advanced and its Philox is for GPUs alone; DTensor
draws by offset, but only what it has cut itself and on GPUs; NumPy's Philox, which is used here,
has a guaranteed stream of words but no such guarantee for its normal numbers (NEP 19).
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakIdKeyDictionary

BLOCK = 1 << 16
"""Elements that are drawn together: few enough for a cache and for one thread of torch."""
WORDS_PER_COUNT = 8
"""32-bit words of one value of the counter."""
WORD_BITS = 32
UNUSED_BITS = 8
"""Bits of a word that are dropped: fp32 has 24 bits of mantissa."""
SEED_LIMIT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal values with mean 0."""

    std: float


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform values in [-bound, bound)."""

    bound: float


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value everywhere."""

    value: float


@dataclass(frozen=True, slots=True)
class Computed:
    """Values from a formula.

    Attributes:
        make: Takes a function that returns the first values of another parameter of the same module
            by its name there; returns the whole parameter, on the CPU.
    """

    make: Callable[[Callable[[str], Tensor]], Tensor]


Draw = Normal | Uniform | Constant | Computed
"""Distribution of a parameter's first values."""
Draws = dict[str, Draw]
"""Parameters by name → their first values."""


class Values(Protocol):
    """A source of parameters by name and place."""

    def fill(self, name: str, out: Tensor, start: int = 0) -> None:
        """Write a slice of a parameter.

        Args:
            name: The parameter's name in the model.
            out: 1-D, of any type and on any device: elements ``start : start + len(out)`` of the
                flattened parameter.
            start: First of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Materialization:
    """Everything that a model on the meta device lacks.

    Attributes:
        values: What its parameters begin as.
        device: Where passes run.
    """

    values: Values
    device: torch.device


class Zeros:
    """A :class:`Values` for a model whose values are loaded afterwards."""

    def fill(self, name: str, out: Tensor, start: int = 0) -> None:
        """Write zeros."""
        del name, start
        out.zero_()


class Held:
    """Whole parameters by name, and other values for the rest; a :class:`Values`.

    Args:
        held: Parameters; views of files, or what was made already.
        rest: Where all others come from; None: there are no others.
    """

    def __init__(self, held: Mapping[str, Tensor], rest: Values | None = None) -> None:
        self._held, self._rest = held, rest

    @torch.no_grad()
    def fill(self, name: str, out: Tensor, start: int = 0) -> None:
        """Write elements ``start : start + len(out)`` of a flattened parameter; see `Values`."""
        if name not in self._held and self._rest is not None:
            self._rest.fill(name, out, start)
        else:
            out.copy_(self._held[name].reshape(-1)[start : start + len(out)])


class FirstValues:
    """The first values of a model's parameters; a :class:`Values`.

    Args:
        module: The model, or a part of one; may be on the meta device. Only names and shapes are
            read.
        draws: What each parameter begins as; of tied names, the first.
        seed: Below 2^63.
    """

    def __init__(self, module: nn.Module, draws: Mapping[str, Draw], seed: int) -> None:
        self.draws, self.seed = draws, seed
        self._shapes = {name: p.shape for name, p in module.named_parameters()}

    def whole(self, name: str) -> Tensor:
        """Return a parameter, fp32 in its shape, on the CPU."""
        flat = torch.empty(self._shapes[name].numel())
        self.fill(name, flat)
        return flat.view(self._shapes[name])

    @torch.no_grad()
    def fill(self, name: str, out: Tensor, start: int = 0) -> None:
        """Write elements ``start : start + len(out)`` of a flattened parameter; see `Values`."""
        draw = self.draws[name]
        if isinstance(draw, Constant):
            out.fill_(draw.value)
        elif isinstance(draw, Computed):
            owner = name.rpartition(".")[0]
            made = draw.make(lambda key: self.whole(f"{owner}.{key}" if owner else key))
            out.copy_(made.reshape(-1)[start : start + len(out)])
        else:
            self._draw(name, draw, out, start)

    def _draw(self, name: str, draw: Normal | Uniform, out: Tensor, start: int) -> None:
        numel, end = self._shapes[name].numel(), start + len(out)
        first = start // BLOCK * BLOCK
        words = Philox(key=_key(self.seed, name), counter=first // WORDS_PER_COUNT)
        in_place = out.dtype is torch.float32 and out.device.type == "cpu"
        for begin in range(first, end, BLOCK):
            after = min(begin + BLOCK, numel)
            low, high = max(start, begin), min(end, after)
            wanted = out[low - start : high - start]
            whole = in_place and high - low == after - begin
            block = wanted if whole else torch.empty(after - begin)
            _write(draw, words, block)
            if not whole:
                wanted.copy_(block[low - begin : high - begin])


def set_aside(module: nn.Module, rest: Values) -> Values:
    """Put the parameters that have memory on the meta device, where the others are; ties stay.

    Args:
        module: Its parameters are replaced.
        rest: Values of those that have no memory.

    Returns:
        The values of all parameters.
    """
    held = {name: p.detach() for name, p in module.named_parameters() if not p.is_meta}
    replaced: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for key, parameter in owner._parameters.items():
            if parameter is not None and not parameter.is_meta:
                empty = replaced.setdefault(
                    id(parameter), _empty_like(parameter, torch.device("meta"))
                )
                setattr(owner, key, empty)  # also where an RNN lists its own
    return Held(held, rest)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Put the parameters of modules that are made meanwhile on the meta device.

    Buffers are made as usual: ``torch.device("meta")`` would lose their values. A parameter is
    replaced when its module takes it, before anything is written into it.
    """
    replaced = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]  # keeps ties

    def replace(_owner: nn.Module, _name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.is_meta:
            return None
        if parameter not in replaced:
            replaced[parameter] = _empty_like(parameter, torch.device("meta"))
        return replaced[parameter]

    handle = register_module_parameter_registration_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def materialized(
    module: nn.Module, device: torch.device, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, nn.Parameter]]:
    """Give parameters on the meta device memory, one after the other; tied ones stay tied.

    Buffers are moved. ``nn.Module.to_empty`` would break ties, since it replaces a parameter
    where it finds it, and would empty buffers.

    Args:
        module: Its parameters are replaced.
        device: Where they go.
        dtype: Type of floating-point parameters; None: as they are.

    Yields:
        Each under its first name, values undefined. The next one has no memory yet.
    """
    for owner in module.modules():
        for key, buffer in owner._buffers.items():
            owner._buffers[key] = None if buffer is None else buffer.to(device)
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for key, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_meta:
                places.setdefault(id(parameter), []).append((owner, key))
    for name, parameter in list(module.named_parameters()):
        if parameter.is_meta:
            made = _empty_like(parameter, device, dtype)
            for owner, key in places[id(parameter)]:
                setattr(owner, key, made)  # also where an RNN lists its own
            yield name, made


def fill_all(
    module: nn.Module, values: Values, device: torch.device, dtype: torch.dtype | None = None
) -> None:
    """Give a module on the meta device memory and values; see `materialized`."""
    for name, parameter in materialized(module, device, dtype):
        values.fill(name, parameter.detach().view(-1))


def _empty_like(
    parameter: nn.Parameter, device: torch.device, dtype: torch.dtype | None = None
) -> nn.Parameter:
    kind = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
    # Not torch.empty_like: on the meta device it imports sympy, half a second of every start.
    empty = torch.empty(parameter.shape, dtype=kind, device=device)
    return nn.Parameter(empty, requires_grad=parameter.requires_grad)


def first_seed() -> int:
    """Return a seed from torch's global generator."""
    return int(torch.randint(SEED_LIMIT, (), device="cpu"))


def _key(seed: int, name: str) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def _write(draw: Normal | Uniform, words: Philox, block: Tensor) -> None:
    """Fill a block, with one word for each number and one more if their number is odd."""
    half = -(-len(block) // 2)
    drawn = torch.from_numpy(words.random_raw(half).view(np.int32))
    if isinstance(draw, Uniform):
        fractions = _fractions(drawn[: len(block)])
        torch.mul(fractions.sub_(0.5), 2 * draw.bound, out=block)
        return
    radius = _fractions(drawn[:half]).log_().mul_(-2 * draw.std**2).sqrt_()
    angle = drawn[half:].float().mul_(2 * math.pi * 2.0**-WORD_BITS)
    torch.mul(angle.cos(), radius, out=block[:half])
    torch.mul(angle.sin_()[: len(block) - half], radius[: len(block) - half], out=block[half:])


def _fractions(words: Tensor) -> Tensor:
    """Return a number in (0, 1], a multiple of 2^-24, for each word."""
    # Words are read as signed, so that the shifted ones lie in [-2^23, 2^23).
    step = 2.0 ** (UNUSED_BITS - WORD_BITS)
    return (words >> UNUSED_BITS).float().mul_(step).add_(0.5 + step)
