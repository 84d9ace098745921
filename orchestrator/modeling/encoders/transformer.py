"""Transformer encoder: bidirectional (BERT, ViT), causal (GPT-2, LLaMA) or with a prefix (UniLM).

Parameter names, the same for every variant (other code relies on them):

    layers.N.attention.query, .key, .value   linear, [heads * head size, D]
    layers.N.attention.output                linear, [D, heads * head size]
    layers.N.attention.query_norm, .key_norm norms of heads or projections; only with query_key_norm
    layers.N.feed_forward.up, .down          linear, [inner, D] and [D, inner]
    layers.N.feed_forward.gate               linear, [inner, D]; only if feed_forward is `gated`
    layers.N.feed_forward.router, ...        in place of those if there are experts; see `Experts`
    layers.N.norm1                           post: after attention + residual; pre: before
                                             attention; not in layer 0 without first_norm
    layers.N.norm2                           the same for the feed-forward
    layers.N.post_norm1, .post_norm2         both only: after attention, after the feed-forward
    layers.N.scale1, .scale2                 factors on both outputs; only with layer_scale
    layers.N.position_bias                   only with a patch bias that is not shared
    position_bias                            T5's or a shared patch bias
    layers.N.attention.position_key, .position_query
                                             disentangled, unless tokens share theirs
    position_vectors.weight, .norm           disentangled; see `PositionVectors`
    convolution.layer, .norm                 only with a convolution; see `Convolution`
    norm                                     all but post: after the last layer, if final_norm

With shared layers there is ``layers.0`` alone. Activation function, eps and positions of the norms
are in the config.
"""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.interfaces import Batch, Encoder
from orchestrator.modeling.layers.attention import (
    Attention,
    AttentionMask,
    attention_mask,
)
from orchestrator.modeling.layers.bias_options import DisentangledConfig, PatchBiasConfig
from orchestrator.modeling.layers.block_options import BlockOptions, RotaryConfig
from orchestrator.modeling.layers.cache import Cache, KeyValues
from orchestrator.modeling.layers.convolution import build_convolution
from orchestrator.modeling.layers.disentangled import (
    DisentangledAttention,
    build_position_vectors,
)
from orchestrator.modeling.layers.feed_forward import (
    Block,
    DropPath,
    Experts,
    FeedForward,
    build_norm,
    build_scale,
    rates_of_layers,
)
from orchestrator.modeling.layers.relative_positions import Rotation, build_position_bias, rotation
from orchestrator.modeling.layers.residual_attention import ResidualAttention
from orchestrator.modeling.layers.unpadding import packing_of


def build_feed_forward(options: BlockOptions, dimensions: Dimensions) -> nn.Module:
    """Return the feed-forward of a block, or its experts."""
    width, inner = dimensions.hidden_size, options.size_of_feed_forward(dimensions)
    gated = options.feed_forward == "gated"
    if options.experts is None:
        return FeedForward(
            width,
            inner,
            activation=options.activation,
            gated=gated,
            biases=options.feed_forward_biases(),
            dropout=options.activation_dropout,
        )
    return Experts(
        width,
        inner,
        experts=options.experts.num_experts,
        top_k=options.experts.top_k,
        activation=options.activation,
        gated=gated,
    )


class TransformerLayer(Block):
    """Self-attention and feed-forward, each with a residual connection and a norm.

    post: ``x = norm1(x + attention(x)); x = norm2(x + feed_forward(x))``;
    pre: ``x = x + attention(norm1(x)); x = x + feed_forward(norm2(x))``;
    both: as pre, with ``post_norm1(attention(...))`` and ``post_norm2(feed_forward(...))``;
    output: ``x = x + norm1(attention(x)); x = x + norm2(feed_forward(x))``;
    parallel: ``x = x + attention(norm1(x)) + feed_forward(norm2(x))``.
    """

    attention_class: ClassVar[type[Attention]] = Attention

    def __init__(
        self, options: TransformerConfig, dimensions: Dimensions, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.drop_path = DropPath(drop_path)
        self.norm_position, self.parallel = options.norm_position, options.parallel
        disentangled = isinstance(options.position_bias, DisentangledConfig)
        attention = DisentangledAttention if disentangled else self.attention_class
        self.attention = attention(options, dimensions)
        self.feed_forward = build_feed_forward(options, dimensions)
        eps, bias = options.norm_eps, options.norm_bias
        self.norm1 = build_norm(options.norm, width, eps, bias=bias)
        self.norm2 = build_norm(options.norm, width, eps, bias=bias)
        both = self.norm_position == "both"
        self.post_norm1, self.post_norm2 = (
            build_norm(options.norm, width, eps, bias=bias) if both else nn.Identity()
            for _ in range(2)
        )
        self.scale1 = build_scale(width, options.layer_scale)
        self.scale2 = build_scale(width, options.layer_scale)
        own_bias = options.position_bias
        own = isinstance(own_bias, PatchBiasConfig) and not own_bias.shared
        self.position_bias = (
            build_position_bias(own_bias, options.num_heads, both_sides=True) if own else None
        )
        self.dropout = nn.Dropout(options.dropout)

    def transform(
        self,
        x: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Transform [B, S, D] to [B, S, D]."""
        mask = self._own_mask(x, mask)
        return self._around(
            x, lambda read: self.attention(read, mask, rotation=rotation, cache=cache)
        )

    def _own_mask(self, x: Tensor, mask: AttentionMask) -> AttentionMask:
        if self.position_bias is None:
            return mask
        positions = torch.arange(x.shape[1], device=x.device)
        return mask.plus(self.position_bias(positions, positions))

    def _around(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what the block makes of [B, S, D] around its attention."""
        if self.parallel:
            inner = self._drop(self.scale2(self.feed_forward(self.norm2(x))))
            return x + self._drop(self.scale1(attend(self.norm1(x)))) + inner
        if self.norm_position in ("pre", "both"):
            mixed = attend(self.norm1(x))
            x = x + self._drop(self.scale1(self.post_norm1(mixed)))
            inner = self.post_norm2(self.feed_forward(self.norm2(x)))
            return x + self._drop(self.scale2(inner))
        mixed = attend(x)
        if self.norm_position == "output":
            x = x + self._drop(self.scale1(self.norm1(mixed)))
            return x + self._drop(self.scale2(self.norm2(self.feed_forward(x))))
        x = self.norm1(x + self._drop(self.scale1(mixed)))
        result: Tensor = self.norm2(x + self._drop(self.scale2(self.feed_forward(x))))
        return result

    def _drop(self, output: Tensor) -> Tensor:
        dropped: Tensor = self.drop_path(self.dropout(output))
        return dropped


class ResidualAttentionLayer(TransformerLayer):
    """A transformer layer that also takes and returns attention scores, [B, H, S, T]."""

    attention_class = ResidualAttention

    def transform(  # type: ignore[override]
        self,
        x: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None = None,
        cache: KeyValues | None = None,
        earlier: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Transform [B, S, D] to [B, S, D], and scores to those of this block."""
        attention, mask = cast(ResidualAttention, self.attention), self._own_mask(x, mask)
        kept: list[Tensor] = []

        def attend(read: Tensor) -> Tensor:
            mixed, scores = attention.with_scores(read, mask, rotation, cache, earlier)
            kept.append(scores)
            return mixed

        return self._around(x, attend), kept[0]


class TransformerEncoder(Encoder):
    """A stack of transformer layers."""

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.config = config
        self.head_size, self.cuts = config.size_of_head(dimensions), config.cuts
        self.checkpointing = False
        blocks = range(config.num_layers)
        windows = [config.window_of(block) for block in blocks]
        rotaries = [config.rotary_of(block) for block in blocks]
        self.windows, self.rotaries = list(dict.fromkeys(windows)), list(dict.fromkeys(rotaries))
        # numbers, not configs: torch.compile does not trace the hash of a config
        self.choices = [
            (self.windows.index(window), self.rotaries.index(rotary))
            for window, rotary in zip(windows, rotaries, strict=True)
        ]
        count = 1 if config.shared_layers else config.num_layers
        rates = rates_of_layers(config.drop_path, count)
        block = ResidualAttentionLayer if config.residual_attention else TransformerLayer
        self.layers = nn.ModuleList(block(config, dimensions, rate) for rate in rates)
        own = isinstance(config.position_bias, PatchBiasConfig) and not config.position_bias.shared
        both = config.mask == "bidirectional"
        self.position_bias = (
            None
            if own
            else build_position_bias(config.position_bias, config.num_heads, both_sides=both)
        )
        if not config.first_norm:
            self.layers[0].norm1 = nn.Identity()
        self.position_vectors: nn.Module | None = None
        if isinstance(config.position_bias, DisentangledConfig):
            self.position_vectors = build_position_vectors(config, dimensions)
        self.convolution = (
            None
            if config.convolution is None
            else build_convolution(config, config.convolution, dimensions)
        )
        final = config.norm_position != "post" and config.final_norm
        width, eps, bias = dimensions.hidden_size, config.norm_eps, config.norm_bias
        self.norm = build_norm(config.norm, width, eps, bias=bias) if final else None

    def forward(
        self, hidden: Tensor, mask: Tensor, batch: Batch, cache: Cache | None = None
    ) -> Tensor:
        """Encode [B, S, D] to [B, S, D]; padding is never attended to.

        Args:
            hidden: Embedded input, [B, S, D].
            mask: True at real positions, [B, S]; with a cache [B, T], earlier positions included.
            batch: May hold ``position_ids`` [B, S] (rotary), ``prefix_mask`` and ``document_ids``.
            cache: Keys and values of earlier positions; only for causal models.
        """
        packing = packing_of(mask) if self.config.attention == "unpadded" else None
        if packing is not None and not self.keeps_layers and 0 not in packing.lengths:
            row = packing.row(mask, batch)
            full = mask.new_ones(1, len(packing.places))
            packed = self._blocks(packing.pack(hidden), full, row, packing.lengths)
            return packing.restore(packed)
        return self._blocks(hidden, mask, batch, cache=cache)

    def _blocks(
        self,
        hidden: Tensor,
        mask: Tensor,
        batch: Batch,
        lengths: tuple[int, ...] | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Pass through all blocks; ``lengths`` are those of sequences in one row."""
        masks = [self._mask(hidden, mask, batch, window, lengths) for window in self.windows]
        if self.position_vectors is not None:
            distances = self.position_vectors(hidden.shape[1])
            masks = [allowed._replace(distances=distances) for allowed in masks]
        angles = [self._rotation(hidden, mask, batch, rotary) for rotary in self.rotaries]
        self.layer_outputs = [hidden] if self.keeps_layers else None
        embedded, scores = hidden, None
        for index, (window, rotary) in enumerate(self.choices):
            layer = self.layers[index % len(self.layers)]
            allowed, turned = masks[window], angles[rotary]
            own = None if cache is None else cache.layer(index).own
            given: tuple[Any, ...] = (hidden, allowed, turned, own)
            given += (scores,) if self.config.residual_attention else ()
            if self.checkpointing and self.training:
                hidden = checkpoint(layer, *given, use_reentrant=False)
            else:
                hidden = layer(*given)
            if self.config.residual_attention:
                hidden, scores = hidden
            if index == 0 and self.convolution is not None:
                hidden = self.convolution(embedded, hidden, mask)
            if self.layer_outputs is not None:
                self.layer_outputs.append(hidden)
        return hidden if self.norm is None else self.norm(hidden)

    def _mask(
        self,
        hidden: Tensor,
        mask: Tensor,
        batch: Batch,
        window: int | None,
        lengths: tuple[int, ...] | None = None,
    ) -> AttentionMask:
        if lengths is not None and (window is None or max(lengths) <= window):
            return AttentionMask(None, lengths=lengths)
        queries, keys = hidden.shape[1], mask.shape[1]
        allowed = attention_mask(
            mask,
            order=self.config.mask,
            queries=queries,
            window=window,
            batch=batch,
            chunked=self.cuts,
        )
        if self.position_bias is None:
            return allowed
        positions = torch.arange(keys, device=hidden.device)
        return allowed.plus(self.position_bias(positions[keys - queries :], positions))

    def _rotation(
        self, hidden: Tensor, mask: Tensor, batch: Batch, rotary: RotaryConfig | None
    ) -> Rotation | None:
        if rotary is None:
            return None
        positions = batch.get("position_ids")
        if positions is None:
            first = mask.shape[1] - hidden.shape[1]
            positions = torch.arange(first, mask.shape[1], device=hidden.device)[None]
        return rotation(rotary, positions, self.head_size, hidden.dtype)
