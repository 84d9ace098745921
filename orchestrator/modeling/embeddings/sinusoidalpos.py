"""Fixed sinusoidal position embedding (Vaswani et al. 2017, section 3.5)."""

import torch
from torch import Tensor

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import SinusoidalPosConfig
from orchestrator.modeling.embeddings.positions import position_ids
from orchestrator.modeling.interfaces import Batch, EmbeddingPart

BASE = 10000.0
"""Ratio of the longest to the shortest wavelength."""


class SinusoidalPositionEmbedding(EmbeddingPart):
    """Sine and cosine of ``position / BASE^(2i/D)``, interleaved or all sines first. No parameters.

    Computed in fp32 in every forward pass: S x D values, negligible beside the encoder, and nothing
    to store.
    """

    Config = SinusoidalPosConfig

    def __init__(self, config: SinusoidalPosConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.limit = dimensions.max_position_embeddings
        self.width = dimensions.hidden_size
        self.interleaved = config.layout == "interleaved"

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D] or [1, S, D].

        Raises:
            InputError: The sequence is longer than max_position_embeddings.
        """
        positions = position_ids(batch, total, self.limit)
        exponents = torch.arange(0, self.width, 2, device=positions.device).float() / self.width
        angles = positions[..., None].float() * BASE**-exponents
        if self.interleaved:
            waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        else:
            waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return waves if total is None else waves.to(total.dtype)
