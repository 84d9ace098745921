"""The samples of global step t: a function of (seed, t) alone.

The samples form one endless stream. Step t takes positions ``t * G`` to ``(t + 1) * G - 1`` of it,
G being the global batch size. There is no position to save: resuming at step t needs t. A batch may
begin in one epoch and end in the next. So no partial batch is dropped or padded, every sample
occurs exactly once per epoch, and a data set smaller than a batch works.

The stream of one source is a permutation of its samples for epoch 0, another for epoch 1, and so
on, each a function of (seed, epoch). That of a small source is a list; that of a large one is
computed place by place, because the list would take minutes and gigabytes in every worker, at the
first step and whenever an epoch begins.

The stream of several sources with weights is made of cycles of 4096 places; in each cycle every
source has its share of the places (largest remainders), in an order that depends on (seed, cycle).
So the shares hold exactly in every cycle, the number of earlier samples of a source is known
without counting them, and each source goes through its own epochs: all its samples once before one
comes again.

The ranks take consecutive equal slices of the batch, whatever their number. Where the lengths of
the samples are known, a rank sorts its slice by length before it is cut into micro-batches: the sum
of gradients is the same, and little of a micro-batch is padding.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.randomness import Purpose, draw, permutation, permuted
from orchestrator.data.samples.base import Batch, SampleDataset
from orchestrator.errors import InputError

IGNORED = -100

CYCLE = 4096  # places of a mixture over which the shares are exact
GOLDEN = 0x9E3779B97F4A7C15  # keeps the seeds of sources apart
WORD = (1 << 64) - 1
CACHED_ORDERS = 2  # a batch may end one epoch and begin the next
LISTED = 1 << 22  # samples of the largest source whose order is a list: seconds, 90 MB


class StepSource:
    """Windows of micro-batches by global step.

    Attributes:
        global_batch_size: G, samples of a step over all ranks.
        micro_batch_size: Samples of one forward pass of one rank.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        global_batch_size: int,
        micro_batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        lengths: IntArray | None = None,
    ) -> None:
        """Take a data set.

        Args:
            dataset: Its samples.
            global_batch_size: G.
            micro_batch_size: Samples of one forward pass.
            seed: seed of the order.
            weights: Share of each source of a mixture; None: there is one source.
            lengths: Tokens of each sample [N]; None: a rank's slice stays in order.

        Raises:
            InputError: It is empty, or the micro-batch does not divide the global batch.
        """
        if not len(dataset):
            raise InputError("the training set has no samples. Check the source and its caps.")
        if global_batch_size < 1:
            raise InputError(f"global_batch_size is {global_batch_size}. Use 1 or more.")
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self._dataset = dataset
        self._lengths = lengths
        self._stream: Shuffled | Mixed = (
            Shuffled(len(dataset), seed) if weights is None else Mixed(dataset.parts, weights, seed)
        )
        self.check(world=1)

    def check(self, world: int) -> None:
        """Refuse a number of ranks that the batch cannot be shared by.

        Raises:
            InputError: Naming the values and what would fit.
        """
        G, m = self.global_batch_size, self.micro_batch_size
        if world < 1 or G % world:
            allowed = ", ".join(map(str, _divisors(G)))
            raise InputError(
                f"global_batch_size ({G}) is not a multiple of the {world} workers. Use one of "
                f"{allowed} workers, or another global_batch_size."
            )
        share = G // world
        if m < 1 or share % m:
            allowed = ", ".join(map(str, _divisors(share)))
            raise InputError(
                f"micro_batch_size: {m} does not divide global_batch_size ({G}) / workers "
                f"({world}) = {share}. Use one of {allowed}."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every sample was used at least once: ceil(N / G)."""
        return -(-len(self._dataset) // self.global_batch_size)

    def epoch(self, step: int) -> int:
        """Return the epoch in which a step begins."""
        return step * self.global_batch_size // len(self._dataset)

    def indices(self, step: int) -> tuple[IntArray, IntArray]:
        """Return sample and epoch of each place in the global batch of a step: int64 [G] each."""
        G = self.global_batch_size
        return self._stream.at(np.arange(step * G, (step + 1) * G, dtype=np.int64))

    def window(self, step: int, rank: int = 0, world: int = 1) -> list[Batch]:
        """Return the micro-batches of a step for one rank.

        Args:
            step: Global step, from 0.
            rank: This rank.
            world: Number of ranks.

        Raises:
            InputError: The batch cannot be shared by so many ranks.
        """
        self.check(world)
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} is not in 0..{world - 1}.")
        samples, epochs = self.indices(step)
        share = self.global_batch_size // world
        mine = np.arange(rank * share, (rank + 1) * share)
        if self._lengths is not None:
            mine = mine[np.argsort(self._lengths[samples[mine]], kind="stable")]
        parts = mine.reshape(-1, self.micro_batch_size)
        return [self._dataset.collate(samples[part], epochs[part]) for part in parts]


def eval_batches(
    dataset: SampleDataset,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    lengths: IntArray | None = None,
) -> Iterator[Batch]:
    """Yield a rank's share of a data set, every sample on exactly one rank.

    All ranks get the same number of batches, because sharded engines meet in every forward pass. A
    rank for which no sample is left gets one sample whose labels are all -100: it counts nothing.

    Args:
        dataset: Samples; random choices are those of epoch 0.
        batch_size: Samples of a batch on one rank.
        rank: This rank.
        world: Number of ranks.
        lengths: Tokens of each sample [N]: short ones come first, and little is padding; None: the
            order of the data set.

    Raises:
        InputError: batch_size is not positive, or the rank does not exist.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise InputError(
            f"batch_size {batch_size}, rank {rank} of {world}: use 1 or more, 0..world-1"
        )
    order = np.arange(len(dataset), dtype=np.int64)
    if lengths is not None:
        order = np.argsort(lengths, kind="stable")
    for start in range(0, len(dataset), batch_size * world):
        group = order[start : start + batch_size * world]
        mine = np.array_split(group, world)[rank]
        yield dataset.collate(mine, 0) if len(mine) else _uncounted(dataset, int(group[0]))


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


def _uncounted(dataset: SampleDataset, index: int) -> Batch:
    batch = dataset.collate(np.asarray([index], dtype=np.int64), 0)
    return {
        name: torch.full_like(value, IGNORED) if name.startswith("labels.") else value
        for name, value in batch.items()
    }


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
