"""Fixed sinusoidal position embedding (Vaswani et al. 2017, section 3.5).

The paper's wavelengths grow by 10000^(2/D) from one to the next, so that the longest is a little
shorter than 2 pi 10000; tensor2tensor's grow by 10000^(1/(D/2 - 1)) and reach it. Models were
trained with either. Angles of the paper's spacing are computed in fp64 and those of tensor2tensor's
in fp32, as their references do: at position 1000 the two precisions differ by 1e-4.

Legend: B batch, S length, D model width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import SinusoidalPosConfig
from orchestrator.modeling.embeddings.positions import position_ids
from orchestrator.modeling.interfaces import Batch, EmbeddingPart

BASE = 10000.0
"""Ratio of the longest to the shortest wavelength."""


class SinusoidalPositionEmbedding(EmbeddingPart):
    """Sines and cosines of the position, interleaved or all sines first.

    Computed in every forward pass: S x D values, negligible beside the encoder. With ``stored``
    they are rows of ``weight`` [max_position_embeddings + offset, D], which is not trained.
    """

    Config = SinusoidalPosConfig

    def __init__(self, config: SinusoidalPosConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.config = config
        self.limit = dimensions.max_position_embeddings
        self.width = dimensions.hidden_size
        rows = self.limit + config.offset
        self.weight = (
            nn.Parameter(torch.empty(rows, self.width), requires_grad=False)
            if config.stored
            else None
        )

    @torch.no_grad()
    def initialize(self, std: float) -> None:
        """Write the waves into the table, if there is one."""
        del std
        if self.weight is not None:
            self.weight.copy_(waves(torch.arange(len(self.weight)), self.width, self.config))

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D] or [1, S, D].

        Raises:
            InputError: The sequence is longer than max_position_embeddings.
        """
        positions = position_ids(batch, total, self.limit, pad_aware=self.config.pad_aware)
        numbers = positions.clamp(min=0) + self.config.offset
        if self.weight is None:
            rows = waves(numbers, self.width, self.config)
        else:
            rows = F.embedding(numbers, self.weight)
        rows = rows if total is None else rows.to(total.dtype)
        return rows.masked_fill((positions < 0)[..., None], 0.0) if self.config.pad_aware else rows


def waves(positions: Tensor, width: int, config: SinusoidalPosConfig) -> Tensor:
    """Return the waves at each position, fp32 [..., D].

    Args:
        positions: Position numbers, int64 [...].
        width: Even D.
        config: Layout and spacing.
    """
    half = torch.arange(width // 2, device=positions.device)
    if config.spacing == "paper":
        angles = positions[..., None].double() * BASE ** -(2 * half.double() / width)
    else:
        step = math.log(BASE) / (width // 2 - 1)
        angles = positions[..., None].float() * torch.exp(half.float() * -step)
    both = [angles.sin().float(), angles.cos().float()]
    if config.layout == "interleaved":
        return torch.stack(both, dim=-1).flatten(-2)
    return torch.cat(both, dim=-1)
