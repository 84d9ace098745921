"""Biases of attention scores by the distance of query and key.

Legend: H heads, S queries, T keys.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.layers.block_options import (
    AlibiConfig,
    PatchBiasConfig,
    PositionBiasConfig,
    T5BiasConfig,
)


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
        slopes = torch.tensor(alibi_slopes(self.heads), device=keys.device)
        return slopes[None, :, None, None] * distance


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
        table = self._index(self.weight.device)
        return F.embedding(table[queries][:, keys], self.weight).permute(2, 0, 1)[None]

    def _index(self, device: torch.device) -> Tensor:
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
    """Return the bias that a config names, or None."""
    if isinstance(config, T5BiasConfig):
        return T5Bias(config, heads, both_sides=both_sides)
    if isinstance(config, AlibiConfig):
        return AlibiBias(heads)
    return None if config is None else PatchBias(config, heads)
