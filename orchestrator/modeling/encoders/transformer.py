"""Transformer encoder: bidirectional (BERT, ViT) or causal (GPT-2, LLaMA).

Parameter names, the same for every variant (other code relies on them):

    layers.N.attention.query, .key, .value   linear, [heads * head size, D]
    layers.N.attention.output                linear, [D, heads * head size]
    layers.N.feed_forward.up, .down          linear, [inner, D] and [D, inner]
    layers.N.feed_forward.gate               linear, [inner, D]; only if feed_forward is `gated`
    layers.N.norm1                           post: after attention + residual; pre: before attention
    layers.N.norm2                           the same for the feed-forward
    norm                                     pre only: after the last layer

Activation function, eps and positions of the norms are in the config.
"""

import torch
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import BlockOptions, TransformerConfig
from orchestrator.modeling.interfaces import Batch, Encoder
from orchestrator.modeling.layers.attention import Attention
from orchestrator.modeling.layers.feed_forward import FeedForward
from orchestrator.modeling.layers.masks import AttentionMask, attention_mask
from orchestrator.modeling.layers.norms import build_norm
from orchestrator.modeling.layers.rotary import rotation


def build_attention(options: BlockOptions, dimensions: Dimensions) -> Attention:
    """Return the attention of a block."""
    return Attention(
        width=dimensions.hidden_size,
        num_heads=options.num_heads,
        num_kv_heads=options.num_kv_heads or options.num_heads,
        head_size=options.size_of_head(dimensions),
        bias=options.bias,
        dropout=options.attention_dropout,
        eager=options.attention == "eager",
    )


def build_feed_forward(options: BlockOptions, dimensions: Dimensions) -> FeedForward:
    """Return the feed-forward of a block."""
    return FeedForward(
        dimensions.hidden_size,
        options.size_of_feed_forward(dimensions),
        activation=options.activation,
        gated=options.feed_forward == "gated",
        bias=options.bias,
    )


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual connection and a norm.

    post: ``x = norm1(x + attention(x)); x = norm2(x + feed_forward(x))``;
    pre: ``x = x + attention(norm1(x)); x = x + feed_forward(norm2(x))``.
    """

    def __init__(self, options: BlockOptions, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.pre = options.norm_position == "pre"
        self.attention = build_attention(options, dimensions)
        self.feed_forward = build_feed_forward(options, dimensions)
        self.norm1 = build_norm(options.norm, width, options.norm_eps)
        self.norm2 = build_norm(options.norm, width, options.norm_eps)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, mask: AttentionMask, rotation: Tensor | None) -> Tensor:
        """Transform [B, S, D] to [B, S, D]; ``rotation`` is [2, B, 1, S, d] or None."""
        if self.pre:
            x = x + self.dropout(self.attention(self.norm1(x), mask, rotation=rotation))
            x = x + self.dropout(self.feed_forward(self.norm2(x)))
        else:
            x = self.norm1(x + self.dropout(self.attention(x, mask, rotation=rotation)))
            x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x


class TransformerEncoder(Encoder):
    """A stack of transformer layers."""

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.causal = config.mask == "causal"
        self.rotary = config.rotary
        self.head_size = config.size_of_head(dimensions)
        self.layers = nn.ModuleList(
            TransformerLayer(config, dimensions) for _ in range(config.num_layers)
        )
        final = config.norm_position == "pre"
        self.norm = (
            build_norm(config.norm, dimensions.hidden_size, config.norm_eps) if final else None
        )

    def forward(self, hidden: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Encode [B, S, D] to [B, S, D]; padding is never attended to."""
        allowed = attention_mask(mask, causal=self.causal)
        angles = self._rotation(hidden, batch)
        for layer in self.layers:
            hidden = layer(hidden, allowed, angles)
        return hidden if self.norm is None else self.norm(hidden)

    def _rotation(self, hidden: Tensor, batch: Batch) -> Tensor | None:
        if self.rotary is None:
            return None
        positions = batch.get("position_ids")
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return rotation(positions, self.head_size, self.rotary.theta, hidden.dtype)
