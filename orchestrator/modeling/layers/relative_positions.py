"""Positions inside attention: rotary embedding of queries and keys, and biases of the scores.

Rotary embedding (Su et al. 2021) has two layouts. Halves (transformers' LLaMA, GPT-NeoX): channel i
is rotated together with channel i + r/2, by the angle position * theta^(-2i/r), i < r/2. Pairs (the
original): channels 2i and 2i + 1 are. Scaled frequencies are those of transformers'
``ROPE_INIT_FUNCTIONS``; its ``dynamic`` scaling is left out, since it turns keys that are already
in a cache by other angles.

Biases depend on the distance of query and key: learned (T5, patches of BEiT) or fixed (ALiBi).

Legend: H heads, S queries, T keys, d head size, r its first channels that are rotated.
"""

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.layers.bias_options import (
    AlibiConfig,
    PatchBiasConfig,
    PositionBiasConfig,
    T5BiasConfig,
)
from orchestrator.modeling.layers.block_options import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RotaryConfig,
    YarnScaling,
)


class Rotation(NamedTuple):
    """Angles by which queries and keys are turned, and which channels are turned together.

    Attributes:
        cos: Cosines for each channel that is turned, [B, 1, S, r].
        sin: Sines, [B, 1, S, r].
        pairs: Neighbors are turned together; otherwise channels r/2 apart.
    """

    cos: Tensor
    sin: Tensor
    pairs: bool


class Distances(NamedTuple):
    """Relative positions as disentangled attention reads them.

    Attributes:
        vectors: One for each distance or bucket in use, [R, D].
        rows: Which one each pair of a query and a key reads, int64 [S, S].
    """

    vectors: Tensor
    rows: Tensor


def rotation(
    config: RotaryConfig, positions: Tensor, head_size: int, dtype: torch.dtype
) -> Rotation:
    """Return the rotation of each position, computed in fp32.

    Args:
        config: Base of the wavelengths, layout and scaling.
        positions: Position ids, [B, S] or [1, S].
        head_size: Width d of a head, an even number of whose channels are rotated.
        dtype: Type of the result.
    """
    rates = frequencies(config, head_size, positions.device)
    if isinstance(config.scaling, LongRopeScaling):
        # a tensor decides, not the host, which would wait for the device
        beyond = positions.max() >= config.scaling.original_max_position_embeddings
        slower = frequencies(config, head_size, positions.device, long=True)
        rates = torch.where(beyond, slower, rates)
    angles = positions[..., None].float() * rates
    pairs = config.layout == "pairs"
    angles = angles.repeat_interleave(2, dim=-1) if pairs else torch.cat([angles, angles], dim=-1)
    angles = angles[:, None]
    size = magnitude(config)
    return Rotation((angles.cos() * size).to(dtype), (angles.sin() * size).to(dtype), pairs)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys [B, H, S, d]."""
    channels = by.cos.shape[-1]
    if channels < x.shape[-1]:
        return torch.cat([rotate(x[..., :channels], by), x[..., channels:]], dim=-1)
    if by.pairs:
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    else:
        left, right = x.chunk(2, dim=-1)
        turned = torch.cat([-right, left], dim=-1)
    return x * by.cos + turned * by.sin


def frequencies(
    config: RotaryConfig, head_size: int, device: torch.device, *, long: bool = False
) -> Tensor:
    """Return the angle per position of each pair of rotated channels, fp32 [r/2].

    Args:
        config: Base, share and scaling.
        head_size: Width of a head.
        device: Where the result is.
        long: Those of sequences beyond the original length, where LongRoPE has others.
    """
    size = config.channels(head_size)
    exponents = torch.arange(0, size, 2, device=device, dtype=torch.float32) / size
    plain = 1.0 / config.theta**exponents
    scaling = config.scaling
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling)
    if isinstance(scaling, YarnScaling):
        return _yarn(plain, scaling, config.theta)
    if isinstance(scaling, LongRopeScaling):
        factors = scaling.long_factor if long else scaling.short_factor
        return 1.0 / (_on_device(factors, device) * config.theta**exponents)
    return plain


def magnitude(config: RotaryConfig) -> float:
    """Return the factor on rotated queries and keys, which only YaRN and LongRoPE have."""
    scaling = config.scaling
    if isinstance(scaling, LongRopeScaling):
        length = scaling.original_max_position_embeddings
        default = math.sqrt(1 + math.log(scaling.factor) / math.log(length))
        return scaling.attention_factor or default
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale is not None and scaling.mscale_all_dim is not None:
        own, all_dim = scaling.mscale, scaling.mscale_all_dim
        return _sharpness(scaling.factor, own) / _sharpness(scaling.factor, all_dim)
    return _sharpness(scaling.factor, 1.0)


def _sharpness(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Blend plain and slowed waves by how often a wave fits into the original length."""
    length = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = length / (2 * math.pi / plain)
    share = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - share) * plain / scaling.factor + share * plain


def _yarn(plain: Tensor, scaling: YarnScaling, theta: float) -> Tensor:
    """Blend plain and slowed waves by channel (Peng et al. 2023, section 3.2)."""
    size = 2 * len(plain)

    def channel(turns: float) -> float:
        length = scaling.original_max_position_embeddings
        return size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001
    index = torch.arange(len(plain), device=plain.device, dtype=torch.float32)
    slowed = ((index - low) / width).clamp(0.0, 1.0)
    return plain / scaling.factor * slowed + plain * (1 - slowed)


class PositionBias(nn.Module, ABC):
    """A bias of attention scores."""

    @abstractmethod
    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias, [1, H, S, T].

        Args:
            queries: Positions that read, int64 [S].
            keys: Positions that are read, int64 [T].
        """


class T5Bias(PositionBias):
    """A learned value for each bucket of distances and head (Raffel et al. 2020, section 2.1).

    Parameters: ``weight`` [buckets, H].
    """

    is_table: ClassVar[bool] = True

    def __init__(self, config: T5BiasConfig, heads: int, *, both_sides: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.buckets, heads))
        self.max_distance = config.max_distance
        self.both_sides = both_sides

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias of each distance, [1, H, S, T]."""
        buckets = self._buckets(keys[None, :] - queries[:, None])
        return F.embedding(buckets, self.weight).permute(2, 0, 1)[None]

    def _buckets(self, distance: Tensor) -> Tensor:
        """Return the bucket of each distance (key minus query).

        Half of the buckets hold one distance each, the others grow like a logarithm up to
        ``max_distance``. Where only the past is read, later keys share bucket 0.
        """
        count = len(self.weight)
        first = torch.zeros_like(distance)
        if self.both_sides:
            count //= 2
            first = (distance > 0).long() * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(
            self.max_distance / exact
        )
        far = (exact + (ratio * (count - exact)).long()).clamp(max=count - 1)
        return first + torch.where(distance < exact, distance, far)


class AlibiBias(PositionBias):
    """Distance times a fixed slope for each head (Press et al. 2022). No parameters.

    For a number of heads that is not a power of two, the slopes are those of the next smaller power
    and every second one of the next larger power.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return -slope * |key - query|, [1, H, S, T]."""
        distance = -(keys[None, :] - queries[:, None]).abs().float()
        slopes = _on_device(tuple(alibi_slopes(self.heads)), keys.device)
        return slopes[None, :, None, None] * distance


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers on a device; copied there once, since the copy waits for the device."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def alibi_slopes(heads: int) -> list[float]:
    """Return the slope of each head, larger ones first."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
    return slopes + between


class PatchBias(PositionBias):
    """A learned value for each offset between two patches of an image and head (Bao et al. 2022).

    Position 0 is the class token: its pairs with patches, patches' pairs with it, and it with
    itself have the last three rows. Parameters: ``weight`` [(2 rows - 1) (2 columns - 1) + 3, H].
    """

    is_table: ClassVar[bool] = True

    def __init__(self, config: PatchBiasConfig, heads: int) -> None:
        super().__init__()
        self.rows, self.columns = config.rows, config.columns
        offsets = (2 * config.rows - 1) * (2 * config.columns - 1)
        self.weight = nn.Parameter(torch.empty(offsets + 3, heads))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias of each pair, [1, H, S, T]."""
        table = self.index(self.weight.device)
        return F.embedding(table[queries][:, keys], self.weight).permute(2, 0, 1)[None]

    def index(self, device: torch.device) -> Tensor:
        """Return the row of each (query, key) pair, [1 + patches, 1 + patches]."""
        row = torch.arange(self.rows, device=device).repeat_interleave(self.columns)
        column = torch.arange(self.columns, device=device).repeat(self.rows)
        down = row[:, None] - row + self.rows - 1
        right = column[:, None] - column + self.columns - 1
        index = F.pad(down * (2 * self.columns - 1) + right, (1, 0, 1, 0))
        last = len(self.weight)
        index[0, :], index[:, 0], index[0, 0] = last - 3, last - 2, last - 1
        return index


def build_position_bias(
    config: PositionBiasConfig | None, heads: int, *, both_sides: bool
) -> PositionBias | None:
    """Return the bias that a config names; None where it names none, or one that queries decide."""
    if isinstance(config, T5BiasConfig):
        return T5Bias(config, heads, both_sides=both_sides)
    if isinstance(config, AlibiConfig):
        return AlibiBias(heads)
    return PatchBias(config, heads) if isinstance(config, PatchBiasConfig) else None
