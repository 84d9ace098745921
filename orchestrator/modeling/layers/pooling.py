"""One vector for a sequence. Masks are 0/1: segment ids never weigh anything.

One vector for a sequence by a learned query (Zhai et al. 2022, "Scaling Vision Transformers").

Legend: B batch, S length, D width.

How many frames are left after strided convolutions, and which of them are real.

Legend: B batch, S frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.block_options import BlockOptions
from orchestrator.modeling.layers.attention import Attention
from orchestrator.modeling.layers.feed_forward import FeedForward
from orchestrator.modeling.layers.masks import padding_mask
from orchestrator.modeling.targets.pair_configs import AttentionPoolingConfig


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """Pool real positions.

    Args:
        hidden: [B, S, D].
        mask: True at real positions, [B, S].
        how: ``mean``; ``first`` or ``last`` real position; ``max`` per channel; ``rest``, the mean
            without the first position; ``second``, the second position.

    Returns:
        [B, D]; finite for a sequence without real positions (zeros for mean and max).
    """
    if how == "second":
        return hidden[:, 1]
    if how == "rest":
        return pool(hidden[:, 1:], mask[:, 1:], "mean")
    if how == "mean":
        weights = mask.to(hidden.dtype)
        total = torch.einsum("bsd,bs->bd", hidden, weights)
        return total / weights.sum(1, keepdim=True).clamp(min=1)
    if how == "max":
        lowest = hidden.masked_fill(~mask[..., None], torch.finfo(hidden.dtype).min).amax(1)
        return lowest.masked_fill(~mask.any(1, keepdim=True), 0.0)
    position = torch.arange(mask.shape[1], device=mask.device)
    last = how == "last"
    index = torch.where(mask, position if last else -position, -mask.shape[1]).argmax(1)
    return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


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
            bias=True,
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D] for ``hidden`` [B, S, D], reading where ``mask`` [B, S] is True."""
        query = self.query.expand(len(hidden), 1, -1)
        read = self.attention(query, padding_mask(mask), memory=hidden)
        result: Tensor = read + self.feed_forward(self.norm(read))
        return result[:, 0]


def subsampled(
    lengths: Tensor, kernels: Sequence[int], strides: Sequence[int], *, centred: bool
) -> Tensor:
    """Return the lengths after a stack of convolutions, int64 [B].

    Args:
        lengths: Lengths before, int64 [B].
        kernels: Of each convolution.
        strides: Of each convolution.
        centred: Padded by half a kernel on both sides, so that only the stride shortens:
            floor((L - 1) / stride) + 1 for odd kernels; otherwise floor((L - kernel) / stride) + 1.
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        around = 2 * (kernel // 2) if centred else 0
        lengths = torch.div(lengths + around - kernel, stride, rounding_mode="floor") + 1
    return lengths


def first_frames(lengths: Tensor, count: int) -> Tensor:
    """Return True at the first ``lengths`` [B] of ``count`` frames, [B, S]."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]
