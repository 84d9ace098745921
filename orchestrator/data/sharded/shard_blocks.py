"""The blocks of many shards as one sequence; a shard is opened at its first use."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import TokenBlocks, map_blocks
from orchestrator.data.corpora.border_table import BorderTable, borders_path
from orchestrator.errors import IntegrityError

OPEN_SHARDS = 256  # open maps; each holds a file descriptor, and a process has about a thousand


class ShardedBlocks(TokenBlocks):
    """The blocks of a split over all shards; they and their borders stay on disk."""

    def __init__(
        self, paths: Sequence[Path], sizes: Sequence[int], block_size: int, parts: tuple[int, ...]
    ) -> None:
        """Take shards that need not be opened yet.

        Args:
            paths: Their files, in order.
            sizes: Number of blocks of each.
            block_size: S.
            parts: Number of blocks of each source.
        """
        self._paths, self._sizes = list(paths), list(sizes)
        self._lay_out(self._sizes, block_size, parts)
        self._opened = lru_cache(maxsize=OPEN_SHARDS)(self._open)

    @cached_property
    def borders(self) -> BorderTable:
        """Positions where documents and sentences begin in the stream of all shards.

        Raises:
            IntegrityError: A file is missing or damaged.
        """
        positions = (self._starts[:-1] * self.block_size).tolist()
        return BorderTable([borders_path(path) for path in self._paths], positions)

    def _open(self, number: int) -> TokenBlocks:
        path = self._paths[number]
        chunks, size = map_blocks(path)
        found = TokenBlocks(chunks, size)
        if (len(found), size) != (self._sizes[number], self.block_size):
            raise IntegrityError(
                f"{path}: has {len(found)} blocks of {size} tokens, the manifest says "
                f"{self._sizes[number]} of {self.block_size}. Build the corpus again."
            )
        return found

    def _take(self, number: int, indices: IntArray) -> IntArray:
        return self._opened(number).rows(indices)

    def _stretch(self, number: int, start: int, stop: int) -> IntArray:
        return self._opened(number).span(start, stop)
