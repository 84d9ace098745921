"""Multi-head attention, over the sequence itself or over another one.

Legend: B batch, S queries, T keys, D model width, H heads, d head size.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.block_options import BlockOptions
from orchestrator.modeling.layers.cache import KeyValues
from orchestrator.modeling.layers.masks import AttentionMask, causal_mask
from orchestrator.modeling.layers.rotary import Rotation, rotate


class Attention(nn.Module):
    """Scaled dot-product attention with grouped key and value heads.

    Vaswani et al. 2017, section 3.2; Ainslie et al. 2023 for the groups.
    Parameters: ``query``, ``key``, ``value``, ``output``.

    Args:
        options: Heads, biases, scale, dropout, and whether to use the fused kernel.
        dimensions: Sizes of the model.
    """

    def __init__(self, options: BlockOptions, dimensions: Dimensions) -> None:
        super().__init__()
        width, self.head_size = dimensions.hidden_size, options.size_of_head(dimensions)
        self.num_heads = options.num_heads
        self.num_kv_heads = options.num_kv_heads or options.num_heads
        self.scale = options.attention_scale or self.head_size**-0.5
        self.dropout = options.attention_dropout
        self.eager = options.attention == "eager"
        own, grouped = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        self.query = nn.Linear(width, own, bias=options.has_bias("query"))
        self.key = nn.Linear(width, grouped, bias=options.has_bias("key"))
        self.value = nn.Linear(width, grouped, bias=options.has_bias("value"))
        self.output = nn.Linear(own, width, bias=options.has_bias("output"))

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        *,
        memory: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: Queries come from here, [B, S, D].
            mask: What may be read.
            memory: Keys and values come from here, [B, T, D]; None: from ``x``.
            rotation: Rotary angles of the positions of ``x``.
            cache: Keys and values of earlier positions, to which those of ``x`` are appended; those
                of ``memory`` are computed in the first call only.

        Returns:
            [B, S, D]. A query that may read nothing gets the output bias alone: finite, with finite
            gradients.
        """
        query = self._split(self.query(x))
        if memory is not None and cache is not None and cache.key is not None:
            key, value = cache.key, cast(Tensor, cache.value)
        else:
            source = x if memory is None else memory
            key, value = self._split(self.key(source)), self._split(self.value(source))
            if rotation is not None:
                query, key = rotate(query, rotation), rotate(key, rotation)
            if cache is not None:
                key, value = cache.extend(key, value)
        mixed = self._mix(query, key, value, mask)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
        """Return what each query reads, [B, H, S, d]."""
        dropout = self.dropout if self.training else 0.0
        if self.eager:
            return eager_attention(query, key, value, mask, scale=self.scale, dropout=dropout)
        bias = mask.bias
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask.allowed if bias is None else bias.to(query.dtype),
            dropout_p=dropout,
            is_causal=mask.causal,
            scale=self.scale,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    *,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(scale q k' + bias) v by its formula, the reference for the fused kernel.

    Args:
        query: [B, H, S, d].
        key: [B, G, T, d], where G divides H.
        value: [B, G, T, d].
        mask: What may be read, and the bias; a query that may read nothing gets zeros.
        scale: Factor on the scores.
        dropout: Dropout rate on probabilities.

    Returns:
        [B, H, S, d].
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scale
    if mask.bias is not None:
        scores = scores + mask.bias
    allowed = mask.allowed
    if mask.causal:
        allowed = causal_mask(scores.shape[-2], scores.shape[-1], scores.device)
    if allowed is None:
        weights = scores.softmax(dim=-1)
    else:
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(dim=-1)
        weights = weights.masked_fill(~allowed, 0.0)
    return F.dropout(weights, dropout) @ value
