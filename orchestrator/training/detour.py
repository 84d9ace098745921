"""Going around data that a run cannot digest: the same steps, other samples from one step on."""

from typing import Any

from orchestrator.training.engine import Batch
from orchestrator.training.loop import WindowSource


class Detour:
    """A source whose steps are shifted from certain steps on.

    What a step reads depends on the step and the jumps alone, so a resumed run that knows its jumps
    reads what the uninterrupted one read.

    Args:
        source: Where samples come from.
        jumps: (step, shift): from that step on, samples of so many steps later are read.
    """

    def __init__(self, source: WindowSource, jumps: list[list[int]] | None = None) -> None:
        self.source = source
        self.jumps = [list(jump) for jump in jumps or []]

    def around(self, first: int, failed: int) -> None:
        """From step ``first`` on read nothing that steps up to ``failed`` have read."""
        self.jumps.append([first, self.actual(failed) - self.actual(first) + 1])

    def actual(self, step: int) -> int:
        """Return the step of the source that a step reads."""
        return step + sum(shift for start, shift in self.jumps if step >= start)

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Micro-batches of one rank for a step."""
        return self.source.window(self.actual(step), rank, world)

    def epoch(self, step: int) -> float:
        """Epoch that a step belongs to."""
        return self.source.epoch(self.actual(step))

    def samples(self, step: int) -> list[int]:
        """Return the sample numbers of a step, where the source knows them."""
        indices: Any = getattr(self.source, "indices", None)
        return [] if indices is None else [int(i) for i in indices(self.actual(step))[0]]
