"""Whole matrices, each on one rank, for an optimizer that needs them whole (Muon).

Every rank sends its pieces of a matrix to the matrix's owner, which orthogonalizes it and sends the
pieces of the result back: each matrix is treated once, and a rank holds one matrix beside its own
pieces. Matrices are given to owners so that all have about the same work.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, distributed

from orchestrator.cluster.engines.layouts import Layout, home_of
from orchestrator.errors import StageError
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.muon import Muon, Stack, orthogonalized
from orchestrator.training.engines.update_rules import Piece


def spread_matrices(
    optimizer: Muon, engine: Engine, layout: Layout, parameters: dict[str, Stack], device: Any
) -> None:
    """Tell the optimizer where the pieces of matrices lie, on all ranks; collective.

    Args:
        optimizer: Steps the layout's flat tensors.
        engine: Holds the shards.
        layout: Its layout.
        parameters: Matrices of each parameter, by name.
        device: Where products are computed.
    """
    stacks = [stack for stack in parameters.values() for _ in range(stack.count)]
    firsts = dict(zip(parameters, _running(parameters.values()), strict=True))
    pieces: dict[Tensor, list[Piece]] = {}
    begin, held, home = torch.zeros(3, len(stacks), engine.world, dtype=torch.int64)
    places = {id(flat): index for index, flat in enumerate(layout.flats())}
    for shard in engine.shards():
        if (stack := parameters.get(shard.name)) is None:
            continue
        flat, offset = home_of(shard, layout)
        for k in range(stack.count):
            low = max(shard.start, k * stack.size)
            count = min(shard.start + shard.master.numel(), (k + 1) * stack.size) - low
            if count > 0:
                number = firsts[shard.name] + k
                piece = Piece(number, offset + low - shard.start, count)
                pieces.setdefault(flat, []).append(piece)
                begin[number, engine.rank] = low - k * stack.size
                held[number, engine.rank] = count
                home[number, engine.rank] = places[id(flat)] + 1
    begin, held, home = engine.sum_over_ranks(torch.stack((begin, held, home)))
    _require_order(stacks, begin, held)
    homes = home.amax(dim=1).tolist()
    numbers = {
        flat: [number for number, where in enumerate(homes) if where == index + 1]
        for index, flat in enumerate(layout.flats())
    }
    exchange = MatrixExchange(stacks, held.tolist(), engine.rank, device, optimizer.compute)
    optimizer.cut(stacks, pieces, numbers, exchange)


def _running(stacks: Any) -> Iterator[int]:
    """Yield the number of the first matrix of each parameter."""
    first = 0
    for stack in stacks:
        yield first
        first += stack.count


def _require_order(stacks: Sequence[Stack], begin: Tensor, held: Tensor) -> None:
    """Pieces are joined in the order of the ranks: they must follow one another."""
    before = held.cumsum(dim=1) - held
    wrong = ((begin != before) & (held > 0)).any()
    sizes = torch.tensor([stack.size for stack in stacks])
    if bool(wrong) or not torch.equal(held.sum(dim=1), sizes):
        raise StageError("the ranks' pieces of a matrix do not follow one another")


class MatrixExchange:
    """A :class:`~orchestrator.training.engines.muon.Spread` over the ranks of the process group.

    Args:
        stacks: Of each matrix.
        held: [matrix][rank] elements that a rank holds, in the order of the ranks.
        rank: This process.
        device: Where products are computed.
        compute: Number format of the products, and of what is sent.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        held: Sequence[Sequence[int]],
        rank: int,
        device: Any,
        compute: torch.dtype,
    ) -> None:
        self.stacks, self.held, self.rank = stacks, held, rank
        self.device, self.compute = device, compute
        self.owners = owners(stacks, held)

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
        mine = [0 if n is None else self.held[n][self.rank] for n in matrices]
        own = matrices[self.rank]
        theirs = [0] * len(mine) if own is None else list(self.held[own])
        sent = [
            piece(n) for n, count in zip(matrices, mine, strict=True) if n is not None and count
        ]
        whole = self._exchange(self._joined(sent), theirs, mine)
        if own is not None:
            stack = self.stacks[own]
            matrix = whole.view(stack.rows, stack.columns)
            whole = orthogonalized(matrix, self.compute).contiguous().view(-1)
        results = torch.split(self._exchange(whole, mine, theirs), mine)
        for number, result in zip(matrices, results, strict=True):
            if number is not None and result.numel():
                yield number, result

    def _joined(self, pieces: Sequence[Tensor]) -> Tensor:
        moved = [each.to(self.device, self.compute) for each in pieces]
        return torch.cat(moved) if moved else torch.empty(0, device=self.device, dtype=self.compute)

    def _exchange(self, values: Tensor, receives: list[int], sends: list[int]) -> Tensor:
        received = values.new_empty(sum(receives))
        distributed.all_to_all_single(received, values, receives, sends)
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
