"""Multi-head attention, over the sequence itself or over another one, and its masks.

The masks say which positions may be read, and what is added to their scores. The kernel is torch's
``scaled_dot_product_attention``.

Legend: B batch, S queries, T keys, D model width, H heads, G key and value heads, d head size.
"""

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import Batch
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.layers.cache import KeyValues
from orchestrator.modeling.layers.feed_forward import build_norm
from orchestrator.modeling.layers.near_attention import Chunks, cut
from orchestrator.modeling.layers.relative_positions import Distances, Rotation, rotate

Order = Literal["bidirectional", "causal", "prefix"]
"""Read all positions; the position itself and earlier ones; these and those of a prefix."""


class AttentionMask(NamedTuple):
    """Positions that attention may read, and the bias added to its scores.

    Attributes:
        allowed: True where a query may read a key, broadcastable to [B, H, S, T]; None: everywhere.
        causal: Additionally only keys that are not later than the query. Never set together with
            ``allowed`` or ``bias`` (a fused kernel takes one or the other).
        bias: Added to the scores, broadcastable to [B, H, S, T]; -inf where not ``allowed``.
        distances: What disentangled attention reads.
        chunks: In place of ``allowed``, which it holds for each chunk of the queries; never set
            together with any of the others.
        lengths: Of sequences that stand in one row and read themselves alone; never set together
            with any of the others.
    """

    allowed: Tensor | None
    causal: bool = False
    bias: Tensor | None = None
    distances: Distances | None = None
    chunks: Chunks | None = None
    lengths: tuple[int, ...] | None = None

    def plus(self, bias: Tensor) -> "AttentionMask":
        """Return this mask with another bias added to the scores, [1, H, S, T]."""
        if self.bias is not None:
            return self._replace(bias=self.bias + bias)
        allowed = self.allowed
        if self.causal:
            allowed = causal_mask(bias.shape[-2], bias.shape[-1], bias.device)
        if allowed is not None:
            bias = bias.masked_fill(~allowed, -torch.inf)
        return AttentionMask(allowed, bias=bias)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return True where a key is not later than the query, [S, T]; the queries come last."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def padding_mask(mask: Tensor) -> AttentionMask:
    """Return what may be read of another sequence, where ``mask`` [B, T] is True."""
    return AttentionMask(None if known_full(mask) else mask[:, None, None, :])


def attention_mask(
    mask: Tensor,
    *,
    order: Order,
    queries: int | None = None,
    window: int | None = None,
    batch: Batch | None = None,
    chunked: bool = False,
) -> AttentionMask:
    """Combine padding with order, a window, a prefix and the borders of packed documents.

    Args:
        mask: True at real positions, [B, T].
        order: Which positions a position may read.
        queries: S, the number of positions at the end that read; None: all.
        window: Positions that a position may look back (and ahead, if bidirectional), itself
            included; None: all.
        batch: May hold ``prefix_mask`` [B, T], 1 where everybody may read (order ``prefix``), and
            ``document_ids`` [B, T]: positions of different documents never read one another.
        chunked: Whether a long sequence with a window may be cut; without biases only.
    """
    length, device = mask.shape[1], mask.device
    queries = length if queries is None else queries
    full = known_full(mask)
    documents = None if batch is None else batch.get("document_ids")
    if chunked and window is not None and queries == length and order != "prefix":
        real = mask[:1] if full else mask
        chunks = cut(real, window, causal=order == "causal", documents=documents)
        if chunks is not None:
            return AttentionMask(None, chunks=chunks)
    allowed = None if full else mask[:, None, None, :]
    if documents is not None:
        same = documents[:, -queries:, None] == documents[:, None, :]
        allowed = _both(allowed, same[:, None])
    if window is not None and window < length:
        allowed = _both(allowed, _near(queries, length, window, device))
    if order == "bidirectional" or (queries == 1 and order == "causal"):
        return AttentionMask(allowed)
    prefix = batch.get("prefix_mask") if batch is not None and order == "prefix" else None
    if allowed is None and prefix is None and queries == length:
        return AttentionMask(None, causal=True)
    earlier = causal_mask(queries, length, device)
    if prefix is not None:
        earlier = earlier | prefix[:, None, None, :].bool()
    return AttentionMask(_both(allowed, earlier))


def _both(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first & second


def _near(queries: int, length: int, window: int, device: torch.device) -> Tensor:
    positions = torch.arange(length, device=device)
    distance = positions[length - queries :, None] - positions
    return distance.abs() < window


def known_full(mask: Tensor) -> bool:
    """Return whether no position is padding; checked only where no device is synchronized.

    A mask that is one value seen everywhere is that of a batch without padding (``all_real``).
    """
    if not any(mask.stride()):
        return True
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(mask.all())


class Attention(nn.Module):
    """Scaled dot-product attention with grouped key and value heads.

    Vaswani et al. 2017, section 3.2; Ainslie et al. 2023 for the groups; Henry et al. 2020 for
    norms of queries and keys.
    Parameters: ``query``, ``key``, ``value``, ``output``; ``query_norm`` and ``key_norm`` only with
    ``query_key_norm``.

    Args:
        options: Heads, biases, scale, dropout, and whether to use the fused kernel.
        dimensions: Sizes of the model.
    """

    def __init__(self, options: BlockOptions, dimensions: Dimensions) -> None:
        super().__init__()
        width, self.head_size = dimensions.hidden_size, options.size_of_head(dimensions)
        self.num_heads = options.num_heads
        self.num_kv_heads = options.num_kv_heads or options.num_heads
        self.scale = options.scale_of_attention(dimensions)
        self.dropout = options.attention_dropout
        self.softcap = options.attention_softcap
        self.eager = not options.fuses_attention
        own, grouped = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        self.query = nn.Linear(width, own, bias=options.has_bias("query"))
        self.key = nn.Linear(width, grouped, bias=options.has_bias("key"))
        self.value = nn.Linear(width, grouped, bias=options.has_bias("value"))
        self.output = nn.Linear(own, width, bias=options.has_bias("output"))
        self.norm_heads = options.query_key_norm == "head"
        self.query_norm: nn.Module | None = None
        self.key_norm: nn.Module | None = None
        if options.query_key_norm != "none":
            sizes = (self.head_size,) * 2 if self.norm_heads else (own, grouped)
            self.query_norm, self.key_norm = (
                build_norm(options.norm, size, options.norm_eps, bias=options.norm_bias)
                for size in sizes
            )

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
        query, key, value = self.heads(x, memory, rotation, cache)
        mixed = self._mix(query, key, value, mask)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def heads(
        self,
        x: Tensor,
        memory: Tensor | None,
        rotation: Rotation | None,
        cache: KeyValues | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, H, S, d], keys and values [B, G, T, d]; see ``forward``."""
        query = self._split(self.query(x), self.query_norm)
        if memory is not None and cache is not None and cache.key is not None:
            key, value = cache.key, cast(Tensor, cache.value)
        else:
            source = x if memory is None else memory
            key = self._split(self.key(source), self.key_norm)
            value = self._split(self.value(source))
            if rotation is not None:
                query, key = rotate(query, rotation), rotate(key, rotation)
            if cache is not None:
                key, value = cache.extend(key, value)
        return query, key, value

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
        """Return what each query reads, [B, H, S, d]."""
        if mask.lengths is not None:
            sizes = list(mask.lengths)
            parts = (x.split_with_sizes(sizes, dim=2) for x in (query, key, value))
            alone = [
                self._mix(q, k, v, AttentionMask(None)) for q, k, v in zip(*parts, strict=True)
            ]
            return torch.cat(alone, dim=2)
        chunks = mask.chunks
        if chunks is not None:
            near = AttentionMask(chunks.mask(len(query)))
            keys, values = chunks.keys(key), chunks.keys(value)
            mixed = self._mix(chunks.queries(query), keys, values, near)
            return chunks.whole(mixed, query.shape[2])
        dropout = self.dropout if self.training else 0.0
        if self.eager:
            return eager_attention(
                query, key, value, mask, scale=self.scale, dropout=dropout, softcap=self.softcap
            )
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

    def _split(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Return the heads of a projection, normalized if there is a norm, [B, H, S, d]."""
        if norm is not None and not self.norm_heads:
            x = norm(x)
        x = x.view(*x.shape[:2], -1, self.head_size)
        if norm is not None and self.norm_heads:
            x = norm(x)
        return x.transpose(1, 2)


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    *,
    scale: float,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Return softmax(scale q k' + bias) v by its formula, the reference for the fused kernel.

    Args:
        query: [B, H, S, d].
        key: [B, G, T, d], where G divides H.
        value: [B, G, T, d].
        mask: What may be read, and the bias; a query that may read nothing gets zeros.
        scale: Factor on the scores.
        dropout: Dropout rate on probabilities.
        softcap: Limit of the scaled scores, by a tanh (Gemma team 2024, section 2); None: no limit.

    Returns:
        [B, H, S, d].
    """
    scores = attention_scores(query, key, mask, scale=scale, softcap=softcap)
    return read_values(scores, value, mask, dropout=dropout)


def attention_scores(
    query: Tensor,
    key: Tensor,
    mask: AttentionMask,
    *,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """Return scale q k' + bias, [B, H, S, T]; see ``eager_attention``."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcapped(scores, softcap)
    return scores if mask.bias is None else scores + mask.bias


def permitted(scores: Tensor, mask: AttentionMask) -> Tensor | None:
    """Return True where a query may read a key, broadcastable to [B, H, S, T]; None: everywhere."""
    if mask.causal:
        return causal_mask(scores.shape[-2], scores.shape[-1], scores.device)
    return mask.allowed


def read_values(scores: Tensor, value: Tensor, mask: AttentionMask, *, dropout: float) -> Tensor:
    """Return softmax(scores) v where the mask permits it, [B, H, S, d]."""
    value = value.repeat_interleave(scores.shape[1] // value.shape[1], dim=1)
    allowed = permitted(scores, mask)
    if allowed is None:
        weights = scores.softmax(dim=-1)
    else:
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(dim=-1)
        weights = weights.masked_fill(~allowed, 0.0)
    return F.dropout(weights, dropout) @ value


def softcapped(x: Tensor, limit: float) -> Tensor:
    """Return ``limit * tanh(x / limit)``; any shape."""
    return (x / limit).tanh() * limit
