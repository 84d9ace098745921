"""An encoder in a package of its own: deep sets (Zaheer et al. 2017, equation 4).

Every position sees itself and the mean of all: h + gelu(A h + B mean(h)). Order counts only through
the embedding. Legend: B batch, S length, D width.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions, EncoderConfig, Visibility
from orchestrator.modeling.interfaces import Batch, Encoder


class DeepSetsEncoder(Encoder):
    """Layers that mix each position with the mean of all."""

    class Config(EncoderConfig):
        """Mix each position with the mean of all."""

        type: Literal["deepsets"] = "deepsets"
        num_layers: PositiveInt = 2
        """Number of layers."""

        @property
        def visibility(self) -> Visibility:
            """Inputs that an output depends on."""
            return "everything"

    def __init__(self, config: Config, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_layers))
        self.all = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Encode [B, S, D] to [B, S, D]; padding is not part of the mean."""
        del batch
        real = mask[..., None].to(hidden.dtype)
        for own, shared in zip(self.own, self.all, strict=True):
            mean = (hidden * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
            hidden = hidden + F.gelu(own(hidden) + shared(mean))
        result: Tensor = self.norm(hidden)
        return result
