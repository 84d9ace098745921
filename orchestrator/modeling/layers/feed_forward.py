"""Transformer blocks, compiled or not, and their position-wise parts.

The parts are activations, feed-forwards, layer scale and stochastic depth.

A mixture of experts stands in place of one feed-forward: Jiang et al. 2024 (Mixtral), section 2.1;
its balance loss is that of Fedus et al. 2022 (Switch), equation 4, summed over the top k as in
transformers. Stochastic depth is Huang et al. 2016, layer scale Touvron et al. 2021.

All compiled blocks of one class share one function, because torch passes weights to it as inputs: a
stack of 24 blocks is compiled once. Hooks of sharding engines, checkpointing and parameter names
are those of a block that is not compiled.

Legend: B batch, S length, N tokens, D model width, F inner width, E experts.
"""

from collections.abc import Callable, Collection
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.initialization import Constant, Draws
from orchestrator.modeling.layers.block_options import FeedForwardLayer
from orchestrator.modeling.layers.cache import KeyValues, LayerCache

RECOMPILE_LIMIT = 256
"""Variants of one block: with and without a mask, training and evaluation, rates of drop_path."""


class Block(nn.Module):
    """One of a stack of equal modules; a subclass has ``transform``, [B, S, D] to [B, S, D]."""

    compiled = False
    """Whether ``transform`` runs compiled; never with a cache, which grows at every call."""
    transform: Callable[..., Tensor]

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """Transform [B, S, D] to [B, S, D]; see the arguments of ``transform``."""
        if self.compiled and not any(isinstance(each, KeyValues | LayerCache) for each in others):
            result: Tensor = compiled(type(self).transform)(self, x, *others)
            return result
        return self.transform(x, *others)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function compiled as one graph; a part that needs Python would be an error."""
    config = torch._dynamo.config  # not a public setting: torch.compile has no argument for it
    config.recompile_limit = max(RECOMPILE_LIMIT, config.recompile_limit)
    return torch.compile(function, fullgraph=True)


def quick_gelu(x: Tensor) -> Tensor:
    """Return ``x * sigmoid(1.702 x)``, the GELU approximation of CLIP; any shape."""
    return x * (1.702 * x).sigmoid()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """``down(act(up(x)))``; gated: ``down(act(gate(x)) * up(x))`` (Shazeer 2020).

    Dropout acts on what ``down`` reads. Parameters: ``up``, ``down`` and, if gated, ``gate``.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        *,
        activation: str,
        gated: bool,
        biases: Collection[FeedForwardLayer] = ("up", "gate", "down"),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner, bias="up" in biases)
        self.gate = nn.Linear(width, inner, bias="gate" in biases) if gated else None
        self.down = nn.Linear(inner, width, bias="down" in biases)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position; [B, S, D] to [B, S, D]."""
        if self.gate is None:
            inner = self.activation(self.up(x))
        else:
            inner = self.activation(self.gate(x)) * self.up(x)
        output: Tensor = self.down(self.dropout(inner))
        return output


class DropPath(nn.Module):
    """Set a sub-layer's output to zero for some samples, and scale up the others.

    Args:
        rate: Share of the samples that skip; 0: none.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, S, D]; outside training what came in."""
        if not self.training or not self.rate:
            return x
        passes = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * passes.to(x.dtype) / (1.0 - self.rate)


def rates_of_layers(last: float, layers: int) -> list[float]:
    """Return the rate of each layer: 0 in the first, growing linearly to ``last``."""
    return [last * layer / max(layers - 1, 1) for layer in range(layers)]


class Experts(nn.Module):
    """Several feed-forwards; each token passes through ``top_k``, weighted by the router.

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
        return self.mixed(tokens, shares, chosen).view_as(x)

    def mixed(self, tokens: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Return the weighted sum of what the chosen experts answer, [N, D].

        Args:
            tokens: [N, D].
            shares: Weight of each expert of a token, [N, top_k].
            chosen: Their numbers, [N, top_k].
        """
        result = torch.zeros_like(tokens)
        for expert in range(len(self.up)):
            token, rank = (chosen == expert).nonzero(as_tuple=True)
            part = self.expert(tokens[token], expert) * shares[token, rank, None]
            result = result.index_add(0, token, part)
        return result

    def expert(self, x: Tensor, expert: int) -> Tensor:
        """Return the answer of one expert, [n, D] for [n, D]."""
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


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor (Touvron et al. 2021). Parameters: ``weight`` [D].

    Args:
        width: D.
        start: First value of every factor.
    """

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(width))

    def first_values(self, std: float) -> Draws:
        """Every factor begins as the option says."""
        del std
        return {"weight": Constant(self.start)}

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., D]."""
        return x * self.weight


def build_scale(width: int, start: float | None) -> nn.Module:
    """Return a layer scale, or the identity where there is none."""
    return nn.Identity() if start is None else LayerScale(width, start)


class Transform(nn.Module):
    """``norm(activation(dense(x)))``; parameters: ``dense`` [E, D], ``norm`` [E] if there is one.

    BERT's prediction head (Devlin et al. 2019) and ModernBERT's heads (Warner et al. 2024).
    """

    def __init__(
        self,
        width: int,
        inner: int,
        *,
        activation: str,
        norm_eps: float | None,
        bias: bool = True,
        norm_bias: bool = True,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.norm: nn.Module | None = None
        if norm_eps is not None:
            self.norm = nn.LayerNorm(inner, eps=norm_eps, bias=norm_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [..., D] to [..., E]."""
        output: Tensor = self.activation(self.dense(x))
        return output if self.norm is None else self.norm(output)


class OffsetRMSNorm(nn.Module):
    """RMSNorm with factors 1 + weight, all in fp32 (Gemma team 2024). Parameters: ``weight`` [D].

    ``nn.RMSNorm`` multiplies by the weight itself; decay of it would pull the factors to 0.

    Args:
        width: D.
        eps: Added to the mean square, under the square root.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def first_values(self, std: float) -> Draws:
        """Every factor begins as 1."""
        del std
        return {"weight": Constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [..., D]."""
        normed = F.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps)
        return normed.type_as(x)


def build_norm(name: str, width: int, eps: float, *, bias: bool = True) -> nn.Module:
    """Return a norm over the last axis, of size ``width``.

    Args:
        name: ``layernorm`` (Ba et al. 2016, biased variance), ``rms`` (Zhang and Sennrich 2019) or
            ``rms_offset`` (Gemma).
        width: Size of the last axis.
        eps: Added to the variance, under the square root.
        bias: Whether a LayerNorm has a bias.
    """
    if name == "rms":
        return nn.RMSNorm(width, eps=eps)
    if name == "rms_offset":
        return OffsetRMSNorm(width, eps)
    return nn.LayerNorm(width, eps=eps, bias=bias)
