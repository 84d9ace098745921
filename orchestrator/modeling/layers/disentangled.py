"""Disentangled attention: scores of content against learned vectors of relative positions.

He et al. 2021 (DeBERTa), equations 2 to 4; He et al. 2023 (DeBERTa-v3). The score of query i and
key j is ``s (q_i k_j + q_i r_d + k_j p_d)``: d = i - j, r and p are projected vectors of distances,
and s = 1 / sqrt(3 * head size), 3 being the number of terms. Position to position, a fourth term,
is left out in the paper too. Distances may share logarithmic buckets (DeBERTa-v2).

Rows of the table that a sequence cannot reach are not projected. Both terms are looked up in
products of size S x R: nothing of size S x S x D exists.

Legend: B batch, S length, D model width, H heads, d head size, R rows in use.
"""

from functools import cache
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.layers.attention import Attention, AttentionMask
from orchestrator.modeling.layers.bias_options import DisentangledConfig
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.layers.relative_positions import Distances


class PositionVectors(nn.Module):
    """A learned vector for each distance or bucket of distances, shared by all layers.

    Row ``span + d`` belongs to distance d, query minus key; larger ones share the outer rows.
    Parameters: ``weight`` [2 span, D] and, if the config says so, ``norm``.
    """

    is_table: ClassVar[bool] = True

    def __init__(self, config: DisentangledConfig, width: int, norm_eps: float) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(2 * config.span, width))
        self.norm = nn.LayerNorm(width, eps=norm_eps) if config.norm else None

    def forward(self, length: int) -> Distances:
        """Return the vectors that a sequence of ``length`` reads, and which one each pair reads."""
        first, count, rows = _rows(self.config, length, self.weight.device)
        vectors = self.weight[first : first + count]
        vectors = vectors if self.norm is None else self.norm(vectors)
        # the rows of all pairs are windows into those of the distances, the last query first
        return Distances(vectors, rows.unfold(0, length, 1).flip(0))


def build_position_vectors(options: BlockOptions, dimensions: Dimensions) -> PositionVectors | None:
    """Return the vectors of distances that blocks share, where their options name any."""
    bias = options.position_bias
    if not isinstance(bias, DisentangledConfig):
        return None
    return PositionVectors(bias, dimensions.hidden_size, options.norm_eps)


@cache
def _rows(config: DisentangledConfig, length: int, device: torch.device) -> tuple[int, int, Tensor]:
    """Return the rows of a sequence's distances.

    Made on the CPU, so that every device reads the same rows where rounding decides, and copied
    once, since the copy waits for the device.

    Returns:
        The first row in use, the number of rows, and the row of each distance from S - 1 down to
        1 - S, counted from the first one, int64 [2 S - 1].
    """
    with torch.inference_mode(mode=False):
        distance = torch.arange(length - 1, -length, -1, device="cpu")
        if config.buckets is not None:
            distance = bucket(distance, config.buckets, config.max_distance)
        rows = (distance + config.span).clamp(0, 2 * config.span - 1)
        first, last = int(rows[-1]), int(rows[0])
        return first, last - first + 1, (rows - first).to(device)


def bucket(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Return the bucket of each distance, int64, from -buckets to buckets.

    Up to ``buckets / 2`` each distance has its own, larger ones share them by their logarithm. The
    steps and their rounding are those of Microsoft's code.
    """
    middle = buckets // 2
    far = distance.abs().clamp(min=middle)
    share = torch.log(far / middle) / torch.log(torch.tensor((max_distance - 1) / middle))
    shared = (torch.ceil(share * (middle - 1)) + middle).long() * distance.sign()
    return torch.where(distance.abs() <= middle, distance, shared)


class PositionLinear(nn.Linear):
    """A linear layer over the vectors of distances: its cost does not grow with the batch."""

    is_table: ClassVar[bool] = True


class DisentangledAttention(Attention):
    """Attention that also compares queries and keys with distances.

    Parameters: those of ``Attention``, and ``position_key`` and ``position_query`` [H d, D], with
    the biases that ``key`` and ``query`` have, unless tokens and distances share projections.

    Args:
        options: As of ``Attention``; its position bias is a `DisentangledConfig`.
        dimensions: Sizes of the model.
    """

    def __init__(self, options: BlockOptions, dimensions: Dimensions) -> None:
        super().__init__(options, dimensions)
        config = cast(DisentangledConfig, options.position_bias)
        self.content_to_position = config.content_to_position
        self.position_to_content = config.position_to_content
        self.position_dropout = nn.Dropout(options.dropout)
        self.position_key: nn.Linear | None = None
        self.position_query: nn.Linear | None = None
        width, own = dimensions.hidden_size, self.num_heads * self.head_size
        if config.content_to_position and not config.shared_projections:
            self.position_key = PositionLinear(width, own, bias=options.has_bias("key"))
        if config.position_to_content and not config.shared_projections:
            self.position_query = PositionLinear(width, own, bias=options.has_bias("query"))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
        distances = cast(Distances, mask.distances)
        vectors, rows = self.position_dropout(distances.vectors), distances.rows
        heads, batch, length = self.num_heads, len(query), query.shape[2]
        terms: list[Tensor] = []
        if self.content_to_position:
            project = self.key if self.position_key is None else self.position_key
            found = torch.bmm(self._flat(query), self._flat(self._table(project(vectors))).mT)
            found = found.view(heads, batch, length, -1)
            terms.append(found.gather(-1, rows.expand(heads, batch, -1, -1)))
        if self.position_to_content:
            project = self.query if self.position_query is None else self.position_query
            # distances first: a look-up whose result has the layout of the other term is faster
            found = torch.bmm(self._flat(self._table(project(vectors))), self._flat(key).mT)
            found = found.view(heads, -1, batch, length)
            terms.append(
                found.gather(1, rows[:, None].expand(heads, -1, batch, -1)).transpose(1, 2)
            )
        bias = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return super()._mix(query, key, value, mask.plus(bias.transpose(0, 1)))

    def _table(self, projected: Tensor) -> Tensor:
        """Return scaled vectors of distances by head, [1, H, R, d], for [R, H d]."""
        return self._split((projected * self.scale)[None])

    def _flat(self, x: Tensor) -> Tensor:
        """Return the positions of all rows by head, [H, B * S, d], for [B, H, S, d]."""
        return x.transpose(0, 1).flatten(1, 2)
