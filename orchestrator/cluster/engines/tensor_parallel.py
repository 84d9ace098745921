"""Tensor parallelism: the layers of a block cut among a few ranks (Shoeybi et al. 2020).

The plan, by kind of layer (axis 0: rows of the weight, its outputs; 1: columns, its inputs):

    attention      query, key, value along 0, by heads; output along 1
    feed-forward   up and gate along 0; down along 1
    experts        up and gate along 1, down along 2: each expert as a feed-forward
    position bias  the tables of T5 and of patches along 1, by heads; ALiBi's slopes

Everything else is computed by every tensor rank on the same values: embeddings, norms, residual
sums, heads, and the biases of layers whose sum is shared. With ``sequence_parallel`` a rank
computes norms, dropout and residual sums between the layers of a stack for its part of the
positions alone (Korthikanti et al. 2022, figure 5).

Gradients: what ranks compute on the same values has the same gradient on each, and the mean over
processes is right. What a rank computes for its own heads or positions alone has a part of the
gradient, and the mean lacks the factor t.

Not torch's ``ColwiseParallel`` and ``RowwiseParallel``: these make norms and shared biases DTensors
with a copy on each tensor rank, whose elements would count several times in norms, checkpoints
and exports, and FSDP2 refuses such parameters where all processes do not divide their rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.cluster.engines.cuts import Cut, Cuts, become, cut_parameter
from orchestrator.cluster.engines.tensor_ranks import TensorRanks, copied, summed
from orchestrator.errors import InputError
from orchestrator.modeling.decoders.transformer import TransformerDecoder
from orchestrator.modeling.encoders.transformer import TransformerEncoder
from orchestrator.modeling.layers.attention import Attention
from orchestrator.modeling.layers.cache import KeyValues
from orchestrator.modeling.layers.feed_forward import Block, Experts, FeedForward
from orchestrator.modeling.layers.relative_positions import (
    AlibiBias,
    PatchBias,
    Rotation,
    T5Bias,
)


def cut_layers(model: nn.Module, ranks: TensorRanks) -> tuple[Cuts, Mapping[str, float]]:
    """Cut a model's layers in place.

    Returns:
        The cuts, and factors that averaged gradients lack, by the names of parameters.

    Raises:
        InputError: The ranks do not divide some layer.
    """
    plan = _Plan(ranks)
    for name, module in list(model.named_modules()):
        plan.apply(name, module)
    names = [name for name, _ in model.named_parameters() if name not in plan.cuts]
    partial = tuple(plan.partial)
    return plan.cuts, {name: ranks.size for name in names if name.startswith(partial)}


class _Plan:
    """The cuts of one model, as they are made."""

    def __init__(self, ranks: TensorRanks) -> None:
        self.ranks = ranks
        self.cuts: dict[str, Cut] = {}
        self.partial: list[str] = []
        """Beginnings of the names of what a rank applies to its heads or positions alone."""

    def apply(self, name: str, module: nn.Module) -> None:
        """Cut one module, if the plan has its kind; a stack before its blocks."""
        if isinstance(module, TransformerEncoder | TransformerDecoder) and self.ranks.sequence:
            self._stack(name, module)
        elif isinstance(module, Attention):
            self._attention(name, module)
        elif isinstance(module, FeedForward):
            self._feed_forward(name, module)
        elif isinstance(module, Experts):
            for parameter, axis in (("up", 1), ("gate", 1), ("down", 2)):
                if getattr(module, parameter) is not None:
                    self._cut(name, module, parameter, axis)
            become(module, _SharedExperts, ranks=self.ranks)
        elif isinstance(module, T5Bias | PatchBias):
            self._cut(name, module, "weight", 1)
        elif isinstance(module, AlibiBias):
            become(module, _SharedSlopes, ranks=self.ranks)

    def _stack(self, name: str, module: TransformerEncoder | TransformerDecoder) -> None:
        """Cut the sequence before the first block, and join it after the last one."""
        self.ranks = ranks = replace(self.ranks)  # a decoder has another length than its encoder
        first, last = module.layers[0], module.layers[-1]
        first.register_forward_pre_hook(lambda _, given: (ranks.begin(given[0]), *given[1:]))
        last.register_forward_hook(lambda _, given, hidden: ranks.end(hidden))
        for block in module.layers:
            become(cast(Block, block), _SharedBlock, ranks=ranks)
        self.partial.append(f"{name}.layers.")

    def _attention(self, name: str, module: Attention) -> None:
        for layer in (module.query, module.key, module.value):
            self._rows(f"{name}.{_name_in(module, layer)}", layer, module.head_size)
        self._columns(f"{name}.output", module.output)
        module.num_heads //= self.ranks.size
        module.num_kv_heads //= self.ranks.size
        become(module, _SharedAttention, ranks=self.ranks)
        self.partial += [f"{name}.query_norm.", f"{name}.key_norm."]

    def _feed_forward(self, name: str, module: FeedForward) -> None:
        self._rows(f"{name}.up", module.up)
        if module.gate is not None:
            self._rows(f"{name}.gate", module.gate)
        self._columns(f"{name}.down", module.down)
        become(module, _SharedFeedForward, ranks=self.ranks)

    def _rows(self, name: str, layer: nn.Linear, unit: int = 1) -> None:
        if layer.out_features % (unit * self.ranks.size):
            number = layer.out_features // unit
            what = "heads" if unit > 1 else "channels"
            raise InputError(
                f"engine.tensor_parallel: {self.ranks.size} does not divide the {number} {what} "
                f"of {name}. Use a divisor"
            )
        self._cut(name, layer, "weight", 0)
        if layer.bias is not None:
            self._cut(name, layer, "bias", 0)
        layer.out_features //= self.ranks.size

    def _columns(self, name: str, layer: nn.Linear) -> None:
        self._cut(name, layer, "weight", 1)
        layer.in_features //= self.ranks.size
        become(layer, _SharedSum, ranks=self.ranks)

    def _cut(self, name: str, module: nn.Module, parameter: str, axis: int) -> None:
        self.cuts[f"{name}.{parameter}"] = cut_parameter(module, parameter, axis, self.ranks.group)


def _name_in(module: nn.Module, child: nn.Module) -> str:
    return next(name for name, each in module.named_children() if each is child)


class _SharedSum(nn.Linear):
    """A linear layer whose inputs lie on several ranks: products are summed, then biased."""

    ranks: TensorRanks

    def forward(self, input: Tensor) -> Tensor:
        total = self.ranks.leave(F.linear(input, self.weight))
        return total if self.bias is None else total + self.bias


class _SharedAttention(Attention):
    """Attention with some of the heads."""

    ranks: TensorRanks

    def forward(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        with self.ranks.own_noise(self.dropout if self.training else 0.0, x.device):
            return super().forward(x, *given, **named)

    def with_scores(self, x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        """Attend; see ``ResidualAttention``, which alone has this."""
        with self.ranks.own_noise(self.dropout if self.training else 0.0, x.device):
            own: Any = super()
            result: tuple[Tensor, Tensor] = own.with_scores(x, *given)
            return result

    def heads(
        self,
        x: Tensor,
        memory: Tensor | None,
        rotation: Rotation | None,
        cache: KeyValues | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        memory = None if memory is None else copied(memory, self.ranks.group)
        return super().heads(self.ranks.enter(x), memory, rotation, cache)


class _SharedFeedForward(FeedForward):
    """A feed-forward with some of the inner channels."""

    ranks: TensorRanks

    def forward(self, x: Tensor) -> Tensor:
        with self.ranks.own_noise(self.dropout.p if self.training else 0.0, x.device):
            return super().forward(self.ranks.enter(x))


class _SharedExperts(Experts):
    """Experts with some of their inner channels; every rank routes all tokens."""

    ranks: TensorRanks

    def mixed(self, tokens: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Return the weighted sum of what the chosen experts answer, [N, D]."""
        group = self.ranks.group
        return summed(super().mixed(copied(tokens, group), copied(shares, group), chosen), group)


class _SharedBlock(Block):
    """A block that sees a part of the positions."""

    ranks: TensorRanks
    dropout: nn.Dropout

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        with self.ranks.own_noise(self.dropout.p if self.training else 0.0, x.device):
            return super().forward(x, *others)


class _SharedSlopes(AlibiBias):
    """Slopes of some of the heads."""

    ranks: TensorRanks

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return super().forward(queries, keys).chunk(self.ranks.size, dim=1)[self.ranks.rank]
