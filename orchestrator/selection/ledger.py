"""What a selection cost: epochs, optimizer steps and proxy passes, beside brute force.

The unit is the paper's: fine-tuning epochs over all models, the winner's to the end included; a
proxy pass over the training split costs half an epoch (a forward pass is about a third of a
training step; the half is kept so that figures compare with the published ones).
"""

from dataclasses import dataclass

PROXY_EPOCHS = 0.5


@dataclass(frozen=True, slots=True)
class Ledger:
    """Cost of one selection.

    Attributes:
        candidates: Models that could have been chosen.
        epochs_each: E, epochs of a full fine-tuning.
        epochs: Fine-tuning epochs spent.
        steps: Optimizer steps spent.
        steps_per_epoch: Optimizer steps of one epoch on the target.
        proxy_passes: Models that were run forward to score them.
        proxy_share: Part of the training rows that a proxy pass reads, 0..1.
    """

    candidates: int
    epochs_each: int
    epochs: int
    steps: int = 0
    steps_per_epoch: int = 0
    proxy_passes: int = 0
    proxy_share: float = 1.0

    @property
    def brute_force_epochs(self) -> int:
        """Every candidate to the end: N E."""
        return self.candidates * self.epochs_each

    @property
    def brute_force_steps(self) -> int:
        """Optimizer steps of brute force."""
        return self.brute_force_epochs * self.steps_per_epoch

    @property
    def total_epochs(self) -> float:
        """Epochs spent, proxy passes included."""
        return self.epochs + PROXY_EPOCHS * self.proxy_passes * self.proxy_share

    @property
    def share_of_brute_force(self) -> float:
        """Total cost divided by brute force's."""
        return self.total_epochs / self.brute_force_epochs

    def summary(self) -> dict[str, float]:
        """Every figure, for reports."""
        return {
            "candidates": self.candidates,
            "epochs_each": self.epochs_each,
            "epochs": self.epochs,
            "steps": self.steps,
            "proxy_passes": self.proxy_passes,
            "proxy_epochs": round(self.total_epochs - self.epochs, 4),
            "total_epochs": round(self.total_epochs, 4),
            "brute_force_epochs": self.brute_force_epochs,
            "brute_force_steps": self.brute_force_steps,
            "share_of_brute_force": round(self.share_of_brute_force, 4),
        }
