"""Rungs of a halving: one epoch each; the first one may be a few optimizer steps.

With ``first_steps`` a halving of E epochs has E + 1 rungs: that many steps of the first epoch, the
rest of that epoch, then whole epochs. No step is repeated: the second rung goes on where the first
one ended. Light: no torch, ray or pandas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import InputError


@dataclass(frozen=True)
class Rungs:
    """Training of a model in each rung, 1-based.

    Attributes:
        epochs: E, epochs of a full training.
        first_steps: Optimizer steps of the first rung; None: it is a whole epoch.
        steps_per_epoch: Optimizer steps of one epoch; None: rows have not been read.
    """

    epochs: int
    first_steps: int | None = None
    steps_per_epoch: int | None = None

    @property
    def count(self) -> int:
        """Number of rungs."""
        return self.epochs + (self.first_steps is not None)

    def epoch(self, rung: int) -> int:
        """Whole epochs that a model has trained after a rung; 0 after a shorter first one."""
        return rung - (self.first_steps is not None)

    def steps_after(self, rung: int) -> int:
        """Optimizer steps that a model has taken after a rung; none after rung 0."""
        assert self.steps_per_epoch is not None
        if rung == 1 and self.first_steps is not None:
            return self.first_steps
        return max(0, self.epoch(rung)) * self.steps_per_epoch

    def share(self, rung: int) -> float:
        """Epochs of one model in a rung.

        While the length of an epoch is unknown, all of the first epoch counts in the first rung:
        it has the most models, so that a sum over rungs is never too small.
        """
        if self.first_steps is None or rung > 2:
            return 1.0
        part = self.first_steps / self.steps_per_epoch if self.steps_per_epoch else 1.0
        return part if rung == 1 else 1.0 - part

    def shares(self) -> list[float]:
        """Epochs of one model in each rung; they sum to E."""
        return [self.share(rung) for rung in range(1, self.count + 1)]

    def trained(self, rung: int) -> float:
        """Epochs that a model has trained after a rung, with the part of a shorter first one."""
        return self.share(1) if rung == 1 else float(max(0, self.epoch(rung)))

    def name(self, rung: int) -> str:
        """Training of a model up to the end of a rung, in words."""
        if rung == 1 and self.first_steps is not None:
            return f"{self.first_steps} steps"
        return f"epoch {self.epoch(rung)}"

    def in_words(self, sizes: Sequence[int]) -> str:
        """The largest cost of rungs with so many models, in words."""
        pairs = zip(sizes, self.shares(), strict=True)
        total = f"{whole(sum(size * share for size, share in pairs))} epochs"
        if self.first_steps is None:
            return f"at most {' + '.join(map(str, sizes))} = {total}"
        later = " + ".join(map(str, sizes[1:]))
        return f"{self.first_steps} steps of {sizes[0]}, then epochs of at most {later} = {total}"

    def require_shorter(self) -> None:
        """Check that the first rung ends within the first epoch, where its length is known.

        Raises:
            InputError: It does not.
        """
        first, whole = self.first_steps, self.steps_per_epoch
        if first is None or whole is None or first < whole:
            return
        allowed = f"Use 1 to {whole - 1}, or null" if whole > 1 else "Use null"
        raise InputError(
            f"halving.first_rung_steps: {first} is not less than an epoch, which has {whole} "
            f"optimizer steps. {allowed} for a whole epoch."
        )


def whole(epochs: float) -> int | float:
    """A number of epochs as it is stored: an integer where it is one, else four digits."""
    near = round(epochs, 4)
    return int(near) if near == int(near) else near
