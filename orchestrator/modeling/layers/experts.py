"""A mixture of feed-forwards: each token passes through the few that a router chooses.

Jiang et al. 2024 (Mixtral), section 2.1; the balance loss of Fedus et al. 2022 (Switch), equation
4, summed over the top k as in transformers.

Legend: N tokens, D model width, F inner width, E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.layers.activations import ACTIVATIONS


class Experts(nn.Module):
    """Feed-forwards of which each token passes through ``top_k``, weighted by the router.

    Parameters: ``router`` [E, D]; ``up`` [E, F, D], ``down`` [E, D, F] and, if gated, ``gate``
    [E, F, D]. Experts have no biases. After a forward pass ``router_logits`` holds the router's
    answers [B * S, E] with their graph, for the balance loss.
    """

    def __init__(
        self, width: int, inner: int, *, experts: int, top_k: int, activation: str, gated: bool
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, inner, width))
        self.gate = nn.Parameter(torch.empty(experts, inner, width)) if gated else None
        self.down = nn.Parameter(torch.empty(experts, width, inner))
        self.activation = ACTIVATIONS[activation]
        self.router_logits: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position; [B, S, D] to [B, S, D]."""
        tokens = x.reshape(-1, x.shape[-1])
        self.router_logits = self.router(tokens)
        shares, chosen = self.router_logits.float().softmax(dim=-1).topk(self.top_k, dim=-1)
        shares = (shares / shares.sum(dim=-1, keepdim=True)).to(x.dtype)
        result = torch.zeros_like(tokens)
        for expert in range(len(self.up)):
            token, rank = (chosen == expert).nonzero(as_tuple=True)
            part = self._expert(tokens[token], expert) * shares[token, rank, None]
            result = result.index_add(0, token, part)
        return result.view_as(x)

    def _expert(self, x: Tensor, expert: int) -> Tensor:
        inner = F.linear(x, self.up[expert])
        if self.gate is None:
            inner = self.activation(inner)
        else:
            inner = self.activation(F.linear(x, self.gate[expert])) * inner
        return F.linear(inner, self.down[expert])


def balance_loss(router_logits: Tensor, real: Tensor, top_k: int) -> Tensor:
    """Return how unevenly tokens are spread: E * sum_e share of tokens_e * mean probability_e.

    Args:
        router_logits: Of all layers, [layers, N, E].
        real: True at real tokens, [N].
        top_k: Experts that a token passes through.

    Returns:
        0-dim; ``top_k`` when all experts are used equally.
    """
    experts = router_logits.shape[-1]
    probabilities = router_logits.float().softmax(dim=-1)
    chosen = probabilities.topk(top_k, dim=-1).indices
    used = F.one_hot(chosen, experts).sum(dim=2).float()
    weights = real.float()[None, :, None]
    count = weights.sum() * len(router_logits)
    share = (used * weights).sum(dim=(0, 1)) / count
    mean = (probabilities * weights).sum(dim=(0, 1)) / count
    return experts * (share * mean).sum()
