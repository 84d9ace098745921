"""Expert parallelism: each rank holds some of the experts, and tokens travel to theirs.

Lepikhin et al. 2021 (GShard), section 3: two all-to-all exchanges around the experts of a block.
Deviation: no expert has a capacity, so no token is dropped; ranks tell each other first how many
come. Each rank reads samples of its own, as without cut experts.

Legend: N tokens of this rank, M tokens that come to it, D width, E experts, e ranks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from orchestrator.cluster.engines.cuts import Cut, Cuts, become, cut_parameter
from orchestrator.errors import InputError
from orchestrator.modeling.layers.feed_forward import Experts


def cut_experts(model: nn.Module, group: ProcessGroup) -> tuple[Cuts, Mapping[str, float]]:
    """Cut a model's experts in place.

    Returns:
        The cuts, and factors that averaged gradients lack, by the names of parameters: an expert
        has seen the tokens of all e ranks, and FSDP2 divides by the number of its copies.

    Raises:
        InputError: The ranks do not divide the number of experts.
    """
    cuts: dict[str, Cut] = {}
    for name, module in list(model.named_modules()):
        if not isinstance(module, Experts):
            continue
        if len(module.up) % group.size():
            raise InputError(
                f"engine.expert_parallel: {group.size()} does not divide the {len(module.up)} "
                f"experts of {name}. Use a divisor"
            )
        for parameter in ("up", "gate", "down"):
            if getattr(module, parameter) is not None:
                cuts[f"{name}.{parameter}"] = cut_parameter(module, parameter, 0, group)
        become(module, _SentTokens, group=group)
    return cuts, dict.fromkeys(cuts, 1.0 / group.size())


class _Exchanged(torch.autograd.Function):
    """Rows sent to other ranks; their gradients come back the same way."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, sent: Sequence[int], received: Sequence[int], group: ProcessGroup
    ) -> Tensor:
        ctx.way = received, sent, group
        return _exchange(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _exchange(gradient, *ctx.way), None, None, None


def _exchange(
    x: Tensor, sent: Sequence[int], received: Sequence[int], group: ProcessGroup
) -> Tensor:
    found = x.new_empty(sum(received), *x.shape[1:])
    distributed.all_to_all_single(found, x.contiguous(), list(received), list(sent), group=group)
    return found


class _SentTokens(Experts):
    """Some of the experts; tokens of other ranks come, and their answers go back."""

    group: ProcessGroup

    def mixed(self, tokens: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Return the weighted sum of what the chosen experts answer, [N, D]."""
        own, ranks = len(self.up), self.group.size()
        wanted = chosen.flatten()
        order = wanted.argsort(stable=True)  # by expert, hence by rank
        counts = wanted.bincount(minlength=own * ranks)
        coming = _exchange(counts, [own] * ranks, [own] * ranks, self.group).view(ranks, own)
        # The sizes of an exchange are the host's: the device is waited for once in each block.
        sent, received = torch.stack([counts.view(ranks, own).sum(1), coming.sum(1)]).tolist()
        source = order // self.top_k
        moved: Tensor = _Exchanged.apply(  # type: ignore[no-untyped-call]
            tokens[source], sent, received, self.group
        )
        answers: Tensor = _Exchanged.apply(  # type: ignore[no-untyped-call]
            self._answers(moved, coming), received, sent, self.group
        )
        weighted = answers * shares.flatten()[order, None]
        return torch.zeros_like(tokens).index_add(0, source, weighted)

    def _answers(self, moved: Tensor, coming: Tensor) -> Tensor:
        """Return what own experts answer to [M, D], which lie by rank and then by expert."""
        ranks, own = coming.shape
        numbers = torch.arange(own, device=moved.device).repeat(ranks)
        expert_of = numbers.repeat_interleave(coming.flatten())
        result = torch.zeros_like(moved)
        for expert in range(own):
            rows = (expert_of == expert).nonzero()[:, 0]
            result = result.index_add(0, rows, self.expert(moved[rows], expert))
        return result
