"""Typed ledger of a selection, as it is stored and read back. Light: no torch, ray or pandas."""

from typing import Literal

from pydantic import JsonValue

from orchestrator.config import StrictModel

PROXY_EPOCHS = 0.5
"""Price of one proxy pass over the training split. A forward pass is about a third of a training
step; the half is the paper's, so that costs compare with the published ones."""

Compared = Literal["this selection", "brute force", "successive halving", "ASHA", "HyperBand"]
Phase = Literal[
    "proxies", "latency", "learning rate", "rung", "int8 check", "completion", "compression",
    "salvage", "idle",
]  # fmt: skip
"""Uses of the slots. Completion: epochs in which no decision is left; INT8 check: compression of a
candidate after a rung; compression: search for the form of a finalist; salvage: merges measured."""


class LedgerRow(StrictModel):
    """Cost of one model in one phase."""

    phase: Phase
    """Use of the slots."""
    model: str = ""
    """Model id; empty for what belongs to no model."""
    rung: int = 0
    """Rung, 1-based; 0 outside of the halving."""
    epochs: int | float = 0
    """Fine-tuning epochs, a part of one for a rung in steps; a proxy pass has none."""
    steps: int = 0
    """Optimizer steps."""
    seconds: float = 0.0
    """Seconds of work."""
    evaluation_s: float = 0.0
    """Seconds of it that validation took; 0 in files of earlier releases."""
    startup_s: float = 0.0
    """Seconds before the work: process, imports and loading."""
    slots: float = 1.0
    """Slots occupied meanwhile."""
    money: float | None = None
    """Price of the slots for that time; null without prices."""

    @property
    def slot_seconds(self) -> float:
        """Seconds of one slot, start-up included."""
        return (self.seconds + self.startup_s) * self.slots


class Latency(StrictModel):
    """Measured latency of one candidate: CPU, one row of median length at a time."""

    ms: float
    """Median milliseconds of a call."""
    tokens: int
    """Length of the row; 0 for images."""
    host: str
    """Processor, CPUs and threads it was measured on."""
    seconds: float = 0.0
    """Seconds that the calls took."""
    startup_s: float = 0.0
    """Seconds before them."""
    error: str = ""
    """Reason why the candidate could not be measured; it is broken."""


class Ledger(StrictModel):
    """Cost of one selection beside brute force.

    The unit is the paper's: fine-tuning epochs over all models, the winner's to the end included.
    """

    candidates: int
    """Models that could have been chosen, N."""
    epochs_each: int
    """Epochs of a full fine-tuning, E."""
    epochs: int | float
    """Fine-tuning epochs spent."""
    steps: int
    """Optimizer steps spent."""
    proxy_passes: int
    """Models that were run forward to score them."""
    proxy_epochs: float
    """Their price in epochs."""
    total_epochs: float
    """Epochs spent, proxy passes included."""
    brute_force_epochs: int
    """Every candidate to the end, N E."""
    brute_force_steps: int
    """Optimizer steps of brute force."""
    share_of_brute_force: float
    """Total epochs divided by those of brute force."""

    wall_s: float = 0.0
    """Seconds that slots were held, over all tries of the run; 0 where nobody measured them."""
    slots: float = 0.0
    """Trials that fit at once, averaged over that time."""
    money: float | None = None
    """Price of all slots for that time; null without prices."""
    currency: str = ""
    """Currency of the money."""
    rows: tuple[LedgerRow, ...] = ()
    """Every cost: model by model in the order of the phases, idle slots last."""

    def totals(self) -> dict[str, JsonValue]:
        """The figures without the rows."""
        return self.model_dump(exclude={"rows"})

    @classmethod
    def of(
        cls,
        *,
        candidates: int,
        epochs_each: int,
        epochs: float,
        steps: int = 0,
        steps_per_epoch: int = 0,
        proxy_passes: int = 0,
        proxy_share: float = 1.0,
    ) -> "Ledger":
        """Add up the cost.

        Args:
            candidates: Models that could have been chosen.
            epochs_each: Epochs of a full fine-tuning.
            epochs: Fine-tuning epochs spent.
            steps: Optimizer steps spent.
            steps_per_epoch: Optimizer steps of one epoch on the target.
            proxy_passes: Models that were run forward to score them.
            proxy_share: Part of the training rows that a proxy pass reads, 0..1.
        """
        proxy_epochs = PROXY_EPOCHS * proxy_passes * proxy_share
        brute_force = candidates * epochs_each
        return cls(
            candidates=candidates,
            epochs_each=epochs_each,
            epochs=epochs,
            steps=steps,
            proxy_passes=proxy_passes,
            proxy_epochs=round(proxy_epochs, 4),
            total_epochs=round(epochs + proxy_epochs, 4),
            brute_force_epochs=brute_force,
            brute_force_steps=brute_force * steps_per_epoch,
            share_of_brute_force=round((epochs + proxy_epochs) / brute_force, 4),
        )


class MethodCost(StrictModel):
    """Cost of one method on the candidates of a selection."""

    method: Compared
    """The method; all but the first one were not run."""
    epochs: float
    """Fine-tuning epochs; proxy passes of this selection included."""
    seconds: float | None = None
    """Seconds of one slot, the work of this selection or epochs times seconds per epoch; null
    where no epoch was timed."""
    waiting_s: float = 0.0
    """Further seconds of one slot: start-up and idle slots. Measured for this selection only."""
    money: float | None = None
    """Price of the seconds, waiting included; null without prices."""
