"""Places of a rank's elements in whole parameters that were cut twice: by layers, then by rows.

A layer is cut among tensor or expert ranks first: an equal part along one axis. FSDP2 then cuts
the rows of that part. Parts along the first axis are still one range of the flattened parameter;
parts along another one are many short runs of it. Checkpoints hold ranges: the ranks that share
rows exchange their runs for whole rows when one is written, so that any other layout reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from orchestrator.training.engines.engine import Runs, Shard


@dataclass(frozen=True, slots=True)
class Cut:
    """An equal part of a parameter along one axis.

    Attributes:
        axis: That axis.
        index: Number of this rank's part.
        parts: Number of parts.
        shape: Shape of the whole parameter.
        group: The ranks that hold the parts.
    """

    axis: int
    index: int
    parts: int
    shape: torch.Size
    group: ProcessGroup

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor; a view."""
        size = whole.shape[self.axis] // self.parts
        return whole.narrow(self.axis, self.index * size, size)

    def assembled(self, part: Tensor) -> Tensor:
        """Return the whole tensor from the parts of all ranks; collective."""
        parts = [torch.empty_like(part) for _ in range(self.parts)]
        distributed.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=self.axis)


Cuts = Mapping[str, Cut]
"""Cuts by the names of parameters."""


def cut_parameter(module: nn.Module, name: str, axis: int, group: ProcessGroup) -> Cut:
    """Keep this rank's part of a module's parameter.

    Args:
        module: Its owner.
        name: Its name there.
        axis: Axis to cut along; the number of ranks divides its size.
        group: The ranks that each get a part.
    """
    whole: nn.Parameter = getattr(module, name)
    found = Cut(axis, group.rank(), group.size(), whole.shape, group)
    part = found.take(whole.detach()).clone(memory_format=torch.contiguous_format)
    setattr(module, name, nn.Parameter(part, requires_grad=whole.requires_grad))
    return found


def become(module: nn.Module, kind: type[nn.Module], **given: object) -> None:
    """Give a module the methods of ``kind`` before its own, as ``fully_shard`` does.

    Args:
        module: Keeps its name, parameters and class among its classes.
        kind: A subclass of one of the module's classes.
        given: Attributes that those methods read.
    """
    own = type(module)
    module.__class__ = type(f"{kind.__name__}{own.__name__}", (kind, own), {})
    for name, value in given.items():
        setattr(module, name, value)


def placed(
    name: str, master: Tensor, grad: Tensor | None, first: int, rows: torch.Size, cut: Cut | None
) -> Shard:
    """Return the shard of some rows of a parameter, or of this rank's part of it.

    Args:
        name: Of the parameter.
        master: Its rows here, [n].
        grad: Their gradient, [n].
        first: Number of the first row.
        rows: Shape of the parameter, or of the part, that FSDP2 has cut.
        cut: Which part; None: the parameter is whole.
    """
    size = rows[1:].numel()  # elements of a row
    if cut is None:
        return Shard(name, master, grad, first * size, rows)
    if cut.axis == 0:
        return Shard(name, master, grad, (cut.index * rows[0] + first) * size, cut.shape)
    stride, width = cut.shape[cut.axis :].numel(), rows[cut.axis :].numel()
    start = first * cut.shape[1:].numel() + cut.index * width
    return Shard(name, master, grad, start, cut.shape, Runs(width, stride, cut.group))


def as_range(shard: Shard, values: Tensor) -> tuple[int, Tensor]:
    """Return elements of a shard as one range: where it starts, and the values; collective.

    Ranks that hold runs of the same rows exchange them: each gets some of the rows whole.

    Args:
        shard: Where the elements lie.
        values: One for each element, [n].
    """
    runs = shard.runs
    if runs is None:
        return shard.start, values
    ranks, place = distributed.get_world_size(runs.group), distributed.get_rank(runs.group)
    mine = values.view(-1, runs.width)
    sizes = [len(part) for part in torch.arange(len(mine)).tensor_split(ranks)]
    received = mine.new_empty(ranks * sizes[place], runs.width)
    distributed.all_to_all_single(
        received, mine.contiguous(), [sizes[place]] * ranks, sizes, group=runs.group
    )
    whole = received.view(ranks, sizes[place], runs.width).transpose(0, 1).reshape(-1)
    return runs.first(shard.start) + sum(sizes[:place]) * runs.stride, whole


def covering(shard: Shard) -> tuple[int, int]:
    """Return start and length of the range of a flattened parameter that holds a shard."""
    if shard.runs is None:
        return shard.start, shard.master.numel()
    rows = shard.master.numel() // shard.runs.width
    return shard.runs.first(shard.start), rows * shard.runs.stride


def picked(shard: Shard, found: Tensor) -> Tensor:
    """Return a shard's elements [n] of the range that `covering` names."""
    if shard.runs is None:
        return found
    offset = shard.start - shard.runs.first(shard.start)
    rows = found.view(-1, shard.runs.stride)
    return rows[:, offset : offset + shard.runs.width].reshape(-1)
