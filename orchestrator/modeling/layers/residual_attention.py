"""Residual attention: the scores of a block are added to those of the block before it.

He et al. 2021, "RealFormer", equation 3: softmax(scale q k' + bias + earlier scores) v. The sum is
what the next block adds. Torch's fused kernels keep no scores, so it is computed by its formula.
Deviation: scores that a mask leaves out are not carried, so that blocks may have different masks.

Legend: B batch, S queries, T keys, D model width, H heads, d head size.
"""

from torch import Tensor

from orchestrator.modeling.layers.attention import (
    Attention,
    AttentionMask,
    attention_scores,
    permitted,
    read_values,
)
from orchestrator.modeling.layers.cache import KeyValues
from orchestrator.modeling.layers.relative_positions import Rotation


class ResidualAttention(Attention):
    """Attention that takes the scores of an earlier block, and returns its own."""

    def with_scores(
        self,
        x: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None,
        cache: KeyValues | None,
        earlier: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Attend; see ``Attention.forward``.

        Args:
            x: [B, S, D].
            mask: What may be read.
            rotation: Rotary angles of the positions of ``x``.
            cache: Keys and values of earlier positions.
            earlier: Scores of the block before this one, [B, H, S, T]; None: this is the first.

        Returns:
            [B, S, D], and the scores for the next block, [B, H, S, T].
        """
        query, key, value = self.heads(x, None, rotation, cache)
        scores = attention_scores(query, key, mask, scale=self.scale)
        if earlier is not None:
            scores = scores + earlier
        dropout = self.dropout if self.training else 0.0
        mixed = read_values(scores, value, mask, dropout=dropout)
        allowed = permitted(scores, mask)
        carried = scores if allowed is None else scores.masked_fill(~allowed, 0.0)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output, carried
