"""The endless stream of samples of one or more sources.

One source: a permutation of its samples for epoch 0, another for epoch 1, and so on. That of a
small source is a list; that of a large one is computed place by place, because the list would take
minutes and gigabytes in every worker, at the first step and whenever an epoch begins. Several with
weights: the stream is made of cycles of 4096 places; in each one every source has its share of the
places (largest remainders), in an order that depends on (seed, cycle). So the shares hold exactly
in every cycle, the number of earlier samples of a source is known without counting them, and each
source goes through its own epochs: all its samples once before one comes again.

What is at a place depends on (seed, place) alone.
"""

from collections.abc import Sequence

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.randomness import Purpose, draw, permutation, permuted
from orchestrator.errors import InputError

CYCLE = 4096
GOLDEN = 0x9E3779B97F4A7C15  # keeps the seeds of sources apart
WORD = (1 << 64) - 1
CACHED_ORDERS = 2  # a batch may end one epoch and begin the next
LISTED = 1 << 22  # samples of the largest source whose order is a list: seconds, 90 MB


class Shuffled:
    """The stream of one source of ``size`` samples."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._orders: dict[int, IntArray] = {}

    def at(self, places: IntArray) -> tuple[IntArray, IntArray]:
        """Return sample and epoch at each place of the stream: int64 [N] each."""
        epochs, rest = np.divmod(places, self._size)
        samples = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            samples[mine] = self._taken(int(epoch), rest[mine])
        return samples, epochs

    def _taken(self, epoch: int, places: IntArray) -> IntArray:
        if self._size > LISTED:
            return permuted(self._seed, epoch, self._size, places)
        return self._order(epoch)[places]

    def _order(self, epoch: int) -> IntArray:
        if epoch not in self._orders:
            while len(self._orders) >= CACHED_ORDERS:
                self._orders.pop(min(self._orders))
            self._orders[epoch] = permutation(self._seed, epoch, self._size)
        return self._orders[epoch]


class Mixed:
    """The stream of several sources whose samples are numbered one source after the other."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """Take the sources.

        Args:
            sizes: Number of samples of each.
            weights: Share of each in the stream, relative to the others.
            seed: seed of the order.

        Raises:
            InputError: A source has no samples, or there are not as many weights as sources.
        """
        if len(sizes) != len(weights) or not all(sizes):
            raise InputError(
                f"the sources of the mixture have {', '.join(map(str, sizes))} training samples "
                f"and {len(weights)} weights. Each needs a weight and samples: check its source, "
                "its cap and whether all of it is held out."
            )
        self.quotas = quotas(weights)
        self._first = np.cumsum([0, *sizes[:-1]])
        self._sources = [
            Shuffled(size, seed ^ (number * GOLDEN & WORD)) for number, size in enumerate(sizes)
        ]
        self._seed = seed
        self._owner = np.repeat(np.arange(len(sizes)), self.quotas)
        self._cycles: dict[int, tuple[IntArray, IntArray]] = {}

    def at(self, places: IntArray) -> tuple[IntArray, IntArray]:
        """Return sample and epoch (of its source) at each place of the stream: int64 [N] each."""
        cycles, rest = np.divmod(places, CYCLE)
        owners, own_places = np.empty_like(places), np.empty_like(places)
        for cycle in np.unique(cycles):
            mine = cycles == cycle
            owner, rank = self._cycle(int(cycle))
            owners[mine] = owner[rest[mine]]
            own_places[mine] = cycle * self.quotas[owners[mine]] + rank[rest[mine]]
        samples, epochs = np.empty_like(places), np.empty_like(places)
        for number, source in enumerate(self._sources):
            mine = owners == number
            found, epochs[mine] = source.at(own_places[mine])
            samples[mine] = self._first[number] + found
        return samples, epochs

    def _cycle(self, cycle: int) -> tuple[IntArray, IntArray]:
        """Return the source of each place of a cycle, and its number among those of the source."""
        if cycle not in self._cycles:
            while len(self._cycles) >= CACHED_ORDERS:
                self._cycles.pop(min(self._cycles))
            score = draw(self._seed, Purpose.MIXTURE, cycle, np.arange(CYCLE), 1)[0][:, 0]
            owner = self._owner[np.argsort(score, kind="stable")]
            rank = np.empty_like(owner)
            for number, quota in enumerate(self.quotas):
                rank[owner == number] = np.arange(quota)
            self._cycles[cycle] = owner, rank
        return self._cycles[cycle]


def quotas(weights: Sequence[float]) -> IntArray:
    """Return how many places of a cycle each source has: largest remainders, at least one each.

    Raises:
        InputError: There are more sources than places.
    """
    if len(weights) > CYCLE:
        raise InputError(f"{len(weights)} sources are more than a mixture can have ({CYCLE}).")
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * CYCLE
    found = np.maximum(1, np.floor(exact)).astype(np.int64)
    while found.sum() > CYCLE:
        found[np.argmax(found)] -= 1
    rest = np.argsort(-(exact - found), kind="stable")
    found[rest[: CYCLE - int(found.sum())]] += 1
    return found
