"""Whole matrices, each on one rank, for an optimizer that needs them whole (Muon).

Every rank sends its pieces of a matrix to the matrix's owner, which orthogonalizes it and sends the
pieces of the result back: each matrix is treated once, and a rank holds one matrix beside its own
pieces. Matrices are given to owners so that all have about the same work.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from orchestrator.cluster.engines.layouts import Layout, home_of
from orchestrator.errors import StageError
from orchestrator.training.engines.engine import Shard
from orchestrator.training.engines.muon import Muon, Stack, orthogonalized
from orchestrator.training.engines.update_rules import Piece


class Part(NamedTuple):
    """Elements of a matrix that one rank holds: runs at equal distances, one run mostly.

    Attributes:
        numel: Number of elements.
        start: The first of them in the flattened matrix.
        width: Elements of a run.
        stride: Distance between the beginnings of two runs.
    """

    numel: int
    start: int
    width: int
    stride: int

    def within(self, flat: Tensor) -> Tensor:
        """Return a view of the elements in the flattened matrix, [runs, width]."""
        return flat.as_strided((self.numel // self.width, self.width), (self.stride, 1), self.start)


NOTHING = Part(0, 0, 1, 1)


def spread_matrices(
    optimizer: Muon,
    layout: Layout,
    parameters: Mapping[str, Stack],
    device: torch.device,
    group: ProcessGroup | None = None,
) -> None:
    """Tell the optimizer where the pieces of matrices lie, on all ranks; collective.

    Args:
        optimizer: Steps the layout's flat tensors.
        layout: Where the shards lie.
        parameters: Matrices of each parameter, by name.
        device: Where products are computed.
        group: Ranks that hold the parts of one copy of the model; None: all processes.
    """
    stacks = [stack for stack in parameters.values() for _ in range(stack.count)]
    firsts = dict(zip(parameters, _firsts(parameters.values()), strict=True))
    flats = list(layout.flats())
    places = {id(flat): index for index, flat in enumerate(flats)}
    rank, world = distributed.get_rank(group), distributed.get_world_size(group)
    table = torch.zeros(len(stacks), world, 5, dtype=torch.int64)
    pieces: dict[Tensor, list[Piece]] = {}
    for shard in layout.shards():
        if (stack := parameters.get(shard.name)) is None:
            continue
        flat, offset = home_of(shard, layout)
        for k, before, part in _parts(shard, stack):
            number = firsts[shard.name] + k
            pieces.setdefault(flat, []).append(Piece(number, offset + before, part.numel))
            table[number, rank] = torch.tensor([*part, places[id(flat)] + 1])
    table = table.to(device)
    distributed.all_reduce(table, group=group)
    held = [[Part(*each[:4]) if each[0] else NOTHING for each in row] for row in table.tolist()]
    _require_whole(stacks, held)
    homes = table[:, :, 4].amax(dim=1).tolist()
    numbers = {
        flat: [number for number, home in enumerate(homes) if home == index + 1]
        for index, flat in enumerate(flats)
    }
    exchange = MatrixExchange(stacks, held, device, optimizer.compute, group)
    optimizer.cut(stacks, pieces, numbers, exchange)


def _firsts(stacks: Iterable[Stack]) -> Iterator[int]:
    """Yield the number of the first matrix of each parameter."""
    yield from list(accumulate((stack.count for stack in stacks), initial=0))[:-1]


def _parts(shard: Shard, stack: Stack) -> Iterator[tuple[int, int, Part]]:
    """Yield a shard's part of each matrix: which matrix, elements of the shard before it, where."""
    numel = shard.master.numel()
    if shard.runs is not None:
        width, stride, _ = shard.runs
        if stack.count > 1:
            raise StageError(f"{shard.name} holds several matrices, and is cut along their columns")
        yield 0, 0, Part(numel, shard.start, width, stride)
        return
    for k in range(stack.count):
        low = max(shard.start, k * stack.size)
        count = min(shard.start + numel, (k + 1) * stack.size) - low
        if count > 0:
            yield k, low - shard.start, Part(count, low - k * stack.size, count, count)


def _require_whole(stacks: Sequence[Stack], held: Sequence[Sequence[Part]]) -> None:
    """Each element of a matrix is on one rank."""
    for stack, parts in zip(stacks, held, strict=True):
        if sum(part.numel for part in parts) != stack.size:
            raise StageError("the ranks' pieces of a matrix are not the whole matrix")


class MatrixExchange:
    """A :class:`~orchestrator.training.engines.muon.Spread` over the ranks of a process group.

    Args:
        stacks: Of each matrix.
        held: [matrix][rank] what a rank holds.
        device: Where products are computed.
        compute: Number format of the products, and of what is sent.
        group: The ranks; None: all processes.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        held: Sequence[Sequence[Part]],
        device: torch.device,
        compute: torch.dtype,
        group: ProcessGroup | None,
    ) -> None:
        self.stacks, self.held, self.rank = stacks, held, distributed.get_rank(group)
        self.device, self.compute, self.group = device, compute, group
        self.owners = owners(stacks, [[part.numel for part in row] for row in held])

    def __call__(
        self, numbers: Sequence[int], piece: Callable[[int], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield this rank's pieces of the orthogonalized matrices; collective."""
        world = len(self.held[0])
        queues = [[n for n in numbers if self.owners[n] == owner] for owner in range(world)]
        for matrices in zip_longest(*queues):
            yield from self._round(matrices, piece)

    def _round(
        self, matrices: Sequence[int | None], piece: Callable[[int], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Treat one matrix of each owner; None: it has no more."""
        mine = [0 if n is None else self.held[n][self.rank].numel for n in matrices]
        own = matrices[self.rank]
        parts = [NOTHING] * len(mine) if own is None else self.held[own]
        theirs = [part.numel for part in parts]
        sent = [
            piece(n) for n, count in zip(matrices, mine, strict=True) if n is not None and count
        ]
        received = self._exchange(self._joined(sent), theirs, mine)
        if own is not None:
            stack, whole = self.stacks[own], torch.empty_like(received)
            for part, values in zip(parts, torch.split(received, theirs), strict=True):
                place = part.within(whole)
                place.copy_(values.view_as(place))
            matrix = orthogonalized(whole.view(stack.rows, stack.columns), self.compute)
            whole = matrix.contiguous().view(-1)
            received = torch.cat([part.within(whole).reshape(-1) for part in parts])
        results = torch.split(self._exchange(received, mine, theirs), mine)
        for number, result in zip(matrices, results, strict=True):
            if number is not None and result.numel():
                yield number, result

    def _joined(self, pieces: Sequence[Tensor]) -> Tensor:
        moved = [each.to(self.device, self.compute) for each in pieces]
        return torch.cat(moved) if moved else torch.empty(0, device=self.device, dtype=self.compute)

    def _exchange(self, values: Tensor, receives: list[int], sends: list[int]) -> Tensor:
        received = values.new_empty(sum(receives))
        distributed.all_to_all_single(received, values, receives, sends, group=self.group)
        return received


def owners(stacks: Sequence[Stack], held: Sequence[Sequence[int]]) -> list[int]:
    """Return the rank that treats each matrix: the one with the least work, else the most of it."""
    load = [0] * len(held[0])
    found = [0] * len(stacks)
    costs = [stack.size * min(stack.rows, stack.columns) for stack in stacks]
    for number in sorted(range(len(stacks)), key=lambda n: (-costs[n], n)):
        rank = min(range(len(load)), key=lambda r: (load[r], -held[number][r]))
        found[number] = rank
        load[rank] += costs[number]
    return found
