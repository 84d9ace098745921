"""One vector for a sequence. Masks are 0/1: segment ids never weigh anything."""

import torch
from torch import Tensor


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
