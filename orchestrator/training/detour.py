"""Skipping data that makes the loss non-finite: the same steps are replayed with other samples."""

from collections.abc import Iterable
from typing import Any

from orchestrator.training.engine import Batch
from orchestrator.training.loop import WindowSource


class Detour:
    """A source that jumps over samples.

    The samples of a step depend on the step and the jumps alone, so a resumed run that knows its
    jumps reads what the uninterrupted one read.

    Args:
        source: Source of the samples.
        jumps: (step, shift): from ``step`` on, the samples of ``shift`` steps later are read.
    """

    def __init__(self, source: WindowSource, jumps: Iterable[tuple[int, int]] = ()) -> None:
        self.source = source
        self.jumps = list(jumps)

    def around(self, first: int, failed: int) -> None:
        """Skip, starting at step ``first``, everything that steps up to ``failed`` have read."""
        self.jumps.append((first, self.actual(failed) - self.actual(first) + 1))

    def actual(self, step: int) -> int:
        """Return the step of the source whose samples a step reads."""
        return step + sum(shift for start, shift in self.jumps if step >= start)

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Micro-batches of one rank for a step."""
        return self.source.window(self.actual(step), rank, world)

    def epoch(self, step: int) -> float:
        """Epoch that a step belongs to."""
        return self.source.epoch(self.actual(step))

    def samples(self, step: int) -> list[int]:
        """Return the sample numbers of a step; empty if the source does not know them."""
        indices: Any = getattr(self.source, "indices", None)
        return [] if indices is None else [int(i) for i in indices(self.actual(step))[0]]
