"""Transformer decoder with cross-attention (T5, BART, PEGASUS, Whisper, the original Transformer).

Parameter names: as in the transformer encoder, and in every layer ``cross_attention.query / key /
value / output`` and ``cross_norm`` (post: after cross-attention and residual; pre: before
cross-attention). A position bias acts on self-attention alone.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.encoders.transformer import build_feed_forward
from orchestrator.modeling.interfaces import Decoder
from orchestrator.modeling.layers.attention import (
    Attention,
    AttentionMask,
    attention_mask,
    padding_mask,
)
from orchestrator.modeling.layers.cache import Cache, LayerCache
from orchestrator.modeling.layers.feed_forward import Block, build_norm
from orchestrator.modeling.layers.relative_positions import build_position_bias


class DecoderLayer(Block):
    """Causal self-attention, cross-attention, feed-forward; each with a residual and a norm."""

    def __init__(self, config: TransformerDecoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width, eps, bias = dimensions.hidden_size, config.norm_eps, config.norm_bias
        self.pre = config.norm_position == "pre"
        self.attention = Attention(config, dimensions)
        self.cross_attention = Attention(config, dimensions)
        self.feed_forward = build_feed_forward(config, dimensions)
        self.norm1 = build_norm(config.norm, width, eps, bias=bias)
        self.cross_norm = build_norm(config.norm, width, eps, bias=bias)
        self.norm2 = build_norm(config.norm, width, eps, bias=bias)
        self.dropout = nn.Dropout(config.dropout)

    def transform(
        self,
        x: Tensor,
        mask: AttentionMask,
        memory: Tensor,
        memory_mask: AttentionMask,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Transform [B, T, D] to [B, T, D], reading ``memory`` [B, S, D]."""
        drop, attend, cross = self.dropout, self.attention, self.cross_attention
        own, other = (None, None) if cache is None else (cache.own, cache.across)
        if self.pre:
            x = x + drop(attend(self.norm1(x), mask, cache=own))
            x = x + drop(cross(self.cross_norm(x), memory_mask, memory=memory, cache=other))
            output: Tensor = x + drop(self.feed_forward(self.norm2(x)))
            return output
        x = self.norm1(x + drop(attend(x, mask, cache=own)))
        x = self.cross_norm(x + drop(cross(x, memory_mask, memory=memory, cache=other)))
        result: Tensor = self.norm2(x + drop(self.feed_forward(x)))
        return result


class TransformerDecoder(Decoder):
    """A stack of decoder layers."""

    Config = TransformerDecoderConfig

    def __init__(self, config: TransformerDecoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.num_layers, self.window = config.num_layers, config.window
        self.checkpointing = False
        count = 1 if config.shared_layers else config.num_layers
        self.layers = nn.ModuleList(DecoderLayer(config, dimensions) for _ in range(count))
        self.position_bias = build_position_bias(
            config.position_bias, config.num_heads, both_sides=False
        )
        final = config.norm_position == "pre"
        width, eps, bias = dimensions.hidden_size, config.norm_eps, config.norm_bias
        self.norm = build_norm(config.norm, width, eps, bias=bias) if final else None

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor,
        memory: Tensor,
        memory_mask: Tensor,
        cache: Cache | None = None,
    ) -> Tensor:
        """Decode [B, T, D] to [B, T, D]; see ``Decoder``.

        With a cache, ``hidden`` holds new positions only, and ``mask`` earlier ones as well.
        """
        own = self._mask(hidden, mask)
        other = padding_mask(memory_mask)
        for index in range(self.num_layers):
            layer = self.layers[index % len(self.layers)]
            if self.checkpointing and self.training:
                hidden = checkpoint(layer, hidden, own, memory, other, use_reentrant=False)
            else:
                earlier = None if cache is None else cache.layer(index)
                hidden = layer(hidden, own, memory, other, earlier)
        return hidden if self.norm is None else self.norm(hidden)

    def _mask(self, hidden: Tensor, mask: Tensor) -> AttentionMask:
        queries, keys = hidden.shape[1], mask.shape[1]
        allowed = attention_mask(
            mask,
            order="causal",
            queries=queries,
            window=self.window,
            chunked=self.position_bias is None,
        )
        if self.position_bias is None:
            return allowed
        positions = torch.arange(keys, device=hidden.device)
        return allowed.plus(self.position_bias(positions[keys - queries :], positions))
