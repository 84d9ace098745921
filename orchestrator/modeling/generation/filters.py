"""Which tokens may be drawn, and how probable they are.

Legend: B rows, V vocabulary.
"""

import torch
from torch import Tensor

from orchestrator.modeling.generation.config import GenerationConfig


def drawable(logits: Tensor, config: GenerationConfig) -> Tensor:
    """Apply temperature, then top k, then top p.

    Args:
        logits: [B, V], fp32.
        config: The three options.

    Returns:
        Logits [B, V], -inf where a token may not be drawn.
    """
    logits = logits / config.temperature
    if config.top_k is not None:
        logits = top_k(logits, config.top_k)
    return logits if config.top_p is None else top_p(logits, config.top_p)


def top_k(logits: Tensor, count: int) -> Tensor:
    """Keep the ``count`` most probable tokens (Fan et al. 2018), and those equal to the last."""
    lowest = logits.topk(min(count, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < lowest, -torch.inf)


def top_p(logits: Tensor, share: float) -> Tensor:
    """Keep the fewest most probable tokens that together have ``share`` (Holtzman et al. 2020)."""
    values, order = logits.sort(dim=-1)
    removed = values.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - share
    removed[..., -1] = False
    return logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)
