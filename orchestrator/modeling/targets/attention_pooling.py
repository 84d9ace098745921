"""Pooling of the vectors of a sequence into one by a learned query.

Zhai et al. 2022, "Scaling Vision Transformers", with the feed-forward of SigLIP.

Legend: B batch, S length, D model width.
"""

import torch
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.layers.attention import Attention, padding_mask
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.layers.feed_forward import FeedForward
from orchestrator.modeling.targets.configs import AttentionPoolingConfig


class AttentionPool(nn.Module):
    """x = attention(query, sequence); x + feed_forward(norm(x)) (SigLIP's image head).

    Parameters: ``query`` [D], ``attention.*``, ``norm``, ``feed_forward.*``.
    """

    def __init__(self, config: AttentionPoolingConfig, width: int) -> None:
        super().__init__()
        options = BlockOptions(num_heads=config.num_heads)
        sizes = Dimensions(
            hidden_size=width,
            vocab_size=0,
            max_position_embeddings=0,
            type_vocab_size=0,
            pad_token_id=0,
        )
        self.query = nn.Parameter(torch.empty(width))
        self.attention = Attention(options, sizes)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.feed_forward = FeedForward(
            width,
            config.intermediate_size or 4 * width,
            activation=config.activation,
            gated=False,
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D] for ``hidden`` [B, S, D], reading where ``mask`` [B, S] is True."""
        query = self.query.expand(len(hidden), 1, -1)
        read = self.attention(query, padding_mask(mask), memory=hidden)
        result: Tensor = read + self.feed_forward(self.norm(read))
        return result[:, 0]
