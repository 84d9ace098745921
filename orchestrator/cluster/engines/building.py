"""Models on the meta device, which get memory and values as an engine keeps them.

A sharded engine never holds a whole model: each rank fills its own part of each parameter
(``modeling/initialization.py``) with the bits that one process has. DeepSpeed's ``zero.Init`` and
torch's ``reset_parameters`` after ``fully_shard`` would draw other numbers on other numbers of
ranks: the one sends rank 0's values of every parameter to all, the other draws each rank's rows
from its own generator.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from orchestrator.cluster.engines.cuts import covering, picked
from orchestrator.modeling.initialization import Values, materialized
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.engine import Shard
from orchestrator.training.engines.optimizers import parameter_groups


def named_groups(model: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups with names in place of parameters, taken before they change."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        group | {"params": [names[id(p)] for p in group["params"]]}
        for group in parameter_groups(model, optimizer)
    ]


def groups_of(
    groups: list[dict[str, Any]], parameters: Mapping[str, nn.Parameter]
) -> list[dict[str, Any]]:
    """Return named groups with their parameters in place of the names."""
    return [group | {"params": [parameters[name] for name in group["params"]]} for group in groups]


@torch.no_grad()
def fill_shards(shards: Iterable[Shard], values: Values) -> None:
    """Write first values into a rank's parts of parameters."""
    for shard in shards:
        if shard.runs is None:
            values.fill(shard.name, shard.master, shard.start)
        else:
            start, numel = covering(shard)
            found = torch.empty(numel, device=shard.master.device)
            values.fill(shard.name, found, start)
            shard.master.copy_(picked(shard, found))


@torch.no_grad()
def partition(
    model: nn.Module, values: Values, init: Any, device: torch.device, dtype: torch.dtype
) -> None:
    """Cut the parameters of a model on the meta device as ZeRO-3 does, one after the other.

    Of the whole parameter only this rank's chunk is written; the rest is never touched, which
    costs nothing on a CPU and one parameter's memory on an accelerator.

    Args:
        model: Its parameters are replaced.
        values: What they begin as.
        init: DeepSpeed's ``zero.Init``; used without its broadcast from rank 0.
        device: Where passes run.
        dtype: Type of weights in passes.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    for name, parameter in materialized(model, device, dtype):
        chunk = math.ceil(parameter.numel() / world)
        start = min(rank * chunk, parameter.numel())
        values.fill(name, parameter.view(-1)[start : start + chunk], start)
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()  # type: ignore[attr-defined]


def own_parts(model: nn.Module, values: Values) -> list[Shard]:
    """Return this rank's parts of frozen parameters, fp32, in host memory."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    parts = []
    for name, parameter in model.named_parameters():
        chunk = math.ceil(parameter.numel() / world)
        start = rank * chunk
        numel = min(chunk, parameter.numel() - start)
        if numel > 0 and not parameter.requires_grad:
            part = torch.empty(numel)
            values.fill(name, part, start)
            parts.append(Shard(name, part, None, start, parameter.shape))
    return parts


@torch.no_grad()
def flattened(
    _zero: Any,
    parameters: Sequence[nn.Parameter],
    alignment: int,
    use_cpu_data: bool = False,
    param_padding: Sequence[int] | None = None,
) -> Tensor:
    """Return a group of ZeRO-1 or 2 in one flat tensor; each parameter is released once copied.

    In the place of DeepSpeed's ``flatten_dense_tensors_aligned``, which holds the group twice. The
    parameters become views of the flat tensor afterwards.
    """
    padding = param_padding or [0] * len(parameters)
    owners = [(p, "cpu_data" if use_cpu_data else "data") for p in parameters]
    first: Tensor = getattr(*owners[0])
    used = sum(getattr(*owner).numel() for owner in owners) + sum(padding)
    flat = first.new_empty(math.ceil(used / alignment) * alignment)
    end = 0
    for (parameter, place), room in zip(owners, padding, strict=True):
        tensor: Tensor = getattr(parameter, place)
        start, end = end, end + tensor.numel()
        flat[start:end].copy_(tensor.reshape(-1))
        flat[end : end + room].zero_()
        end += room
        setattr(parameter, place, tensor.new_empty(0))
    flat[end:].zero_()
    return flat
