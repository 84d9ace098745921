"""Multi-head attention, over the sequence itself or over another one.

Legend: B batch, S queries, T keys, D model width, H heads, d head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.layers.masks import AttentionMask
from orchestrator.modeling.layers.rotary import rotate


class Attention(nn.Module):
    """Scaled dot-product attention with grouped key and value heads.

    Vaswani et al. 2017, section 3.2; Ainslie et al. 2023 for the groups.
    Parameters: ``query``, ``key``, ``value``, ``output``.

    Args:
        width: D.
        num_heads: H.
        num_kv_heads: Key and value heads; each serves H / num_kv_heads query heads.
        head_size: d.
        bias: Whether the four linear layers have biases.
        dropout: Dropout rate on probabilities.
        eager: Compute the plain formula instead of the fused kernel.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        bias: bool,
        dropout: float,
        eager: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_size = head_size
        self.dropout = dropout
        self.eager = eager
        self.query = nn.Linear(width, num_heads * head_size, bias=bias)
        self.key = nn.Linear(width, num_kv_heads * head_size, bias=bias)
        self.value = nn.Linear(width, num_kv_heads * head_size, bias=bias)
        self.output = nn.Linear(num_heads * head_size, width, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        *,
        memory: Tensor | None = None,
        rotation: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: Queries come from here, [B, S, D].
            mask: What may be read.
            memory: Keys and values come from here, [B, T, D]; None: from ``x``.
            rotation: Rotary cosines and sines for queries and keys, [2, B, 1, S, d].

        Returns:
            [B, S, D]. A query that may read nothing gets the output bias alone: finite, with finite
            gradients.
        """
        source = x if memory is None else memory
        query = self._split(self.query(x))
        key = self._split(self.key(source))
        value = self._split(self.value(source))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        dropout = self.dropout if self.training else 0.0
        if self.eager:
            mixed = eager_attention(query, key, value, mask, dropout)
        else:
            mixed = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask.allowed,
                dropout_p=dropout,
                is_causal=mask.causal,
                enable_gqa=self.num_kv_heads != self.num_heads,
            )
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, dropout: float
) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v by its formula, the reference for the fused kernel.

    Args:
        query: [B, H, S, d].
        key: [B, G, T, d], where G divides H.
        value: [B, G, T, d].
        mask: What may be read; a query that may read nothing gets zeros.
        dropout: Dropout rate on probabilities.

    Returns:
        [B, H, S, d].
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if mask.allowed is not None:
        allowed = allowed & mask.allowed
    if mask.causal:
        allowed = allowed.tril()
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(dim=-1)
    weights = weights.masked_fill(~allowed, 0.0)
    return F.dropout(weights, dropout) @ value
