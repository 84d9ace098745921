"""Directions at the outputs whose squared products with a small change add up to its divergence.

A change d of a row's outputs moves its distribution by KL = 1/2 d' F d, with the Fisher information
F of the distribution; for vectors 1 - cosine = 1/2 d' F d with the projection on the plane across
the vector, over its squared length. A random direction v with E[v v'] = F gives both without bias:
E[(v' d)^2] = d' F d (Hutchinson 1990). Signs are Rademacher's, which vary least.

Legend: B rows, S tokens, K outputs, D width.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

SMALLEST: Final = 1e-12


def cosine_direction(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Return directions [B, D] of 1 - cosine at vectors [B, D]."""
    length = vectors.norm(dim=-1, keepdim=True).clamp_min(SMALLEST)
    along, signs = vectors / length, _signs(vectors, generator)
    across = signs - along * (along * signs).sum(-1, keepdim=True)
    found: Tensor = across / length
    return found


def margin_direction(logits: Tensor, mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return directions of the mean squared change of the margins between the two best outputs.

    Args:
        logits: Of each row [B, K], or of each token [B, S, K].
        mask: Real tokens [B, S].
        generator: Draws the signs of tokens, whose margins change together.
    """
    best = logits.topk(2, dim=-1).indices
    signs = torch.ones_like(best, dtype=logits.dtype)
    signs[..., 1] = -1
    found = torch.zeros_like(logits).scatter(-1, best, signs)
    if mask is None or logits.ndim < 3:
        return found
    real = mask.to(found.dtype)
    weights = real / real.sum(1, keepdim=True).sqrt() * _signs(real, generator)
    return found * weights[..., None]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator)
    return drawn.to(like.dtype) * 2 - 1


def _classes(logits: Tensor, mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return directions of a categorical distribution per row, or per token of the mask [B, S]."""
    shares = logits.softmax(-1)
    root = shares.sqrt() * _signs(logits, generator)
    found = root - shares * root.sum(-1, keepdim=True)
    if mask is None or logits.ndim < 3:
        return found
    real = mask.to(found.dtype)
    return found * (real / real.sum(1, keepdim=True).sqrt())[..., None]


def _labels(logits: Tensor, mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return directions of one Bernoulli distribution per label [B, K]."""
    del mask
    shares = logits.sigmoid()
    return (shares * (1 - shares)).sqrt() * _signs(logits, generator)


DIRECTIONS: Final[Mapping[str, Callable[[Tensor, Tensor | None, torch.Generator], Tensor]]] = {
    "classification": _classes,
    "tags": _classes,
    "multilabel": _labels,
}
"""Directions at the outputs of heads, by task kind; other kinds have none here."""
