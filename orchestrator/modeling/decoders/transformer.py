"""Transformer decoder with cross-attention (BART, PEGASUS, the original Transformer).

Parameter names: as in the transformer encoder, and in every layer ``cross_attention.query / key /
value / output`` and ``cross_norm`` (post: after cross-attention and residual; pre: before
cross-attention).
"""

from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.decoders.configs import TransformerDecoderConfig
from orchestrator.modeling.encoders.transformer import build_attention, build_feed_forward
from orchestrator.modeling.interfaces import Decoder
from orchestrator.modeling.layers.masks import AttentionMask, attention_mask
from orchestrator.modeling.layers.norms import build_norm


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention, feed-forward; each with a residual and a norm."""

    def __init__(self, config: TransformerDecoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width, eps = dimensions.hidden_size, config.norm_eps
        self.pre = config.norm_position == "pre"
        self.attention = build_attention(config, dimensions)
        self.cross_attention = build_attention(config, dimensions)
        self.feed_forward = build_feed_forward(config, dimensions)
        self.norm1 = build_norm(config.norm, width, eps)
        self.cross_norm = build_norm(config.norm, width, eps)
        self.norm2 = build_norm(config.norm, width, eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: AttentionMask, memory: Tensor, memory_mask: AttentionMask
    ) -> Tensor:
        """Transform [B, T, D] to [B, T, D], reading ``memory`` [B, S, D]."""
        drop, attend, cross = self.dropout, self.attention, self.cross_attention
        if self.pre:
            x = x + drop(attend(self.norm1(x), mask))
            x = x + drop(cross(self.cross_norm(x), memory_mask, memory=memory))
            x = x + drop(self.feed_forward(self.norm2(x)))
        else:
            x = self.norm1(x + drop(attend(x, mask)))
            x = self.cross_norm(x + drop(cross(x, memory_mask, memory=memory)))
            x = self.norm2(x + drop(self.feed_forward(x)))
        return x


class TransformerDecoder(Decoder):
    """A stack of decoder layers."""

    Config = TransformerDecoderConfig

    def __init__(self, config: TransformerDecoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(config, dimensions) for _ in range(config.num_layers)
        )
        final = config.norm_position == "pre"
        self.norm = (
            build_norm(config.norm, dimensions.hidden_size, config.norm_eps) if final else None
        )

    def forward(self, hidden: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Decode [B, T, D] to [B, T, D]; see ``Decoder``."""
        own = attention_mask(mask, causal=True)
        other = attention_mask(memory_mask, causal=False)
        for layer in self.layers:
            hidden = layer(hidden, own, memory, other)
        return hidden if self.norm is None else self.norm(hidden)
