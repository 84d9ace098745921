"""A trial that plays a stored learning curve through the real scheduler."""

import json

from orchestrator.config import StrictModel
from orchestrator.selection.results import EpochResult


class Curve(StrictModel):
    trial: str
    curve: tuple[float, ...]
    """Validation per epoch, then the final test."""
    fails_at: int
    """Epoch that raises; 0: none."""


class CurveTrial:
    def __init__(self, payload):
        self.payload = payload
        self.epoch = 0

    @property
    def done(self):
        return self.epoch == len(self.payload.curve) - 1

    def step(self):
        self.epoch += 1
        if self.epoch == self.payload.fails_at:
            raise RuntimeError(f"epoch {self.epoch} fails as planned")
        return EpochResult(
            trial=self.payload.trial,
            rung=self.epoch,
            validation=self.payload.curve[self.epoch - 1],
            test=self.payload.curve[-1] if self.done else None,
        )

    def save(self, folder):
        (folder / "position.json").write_text(json.dumps(self.epoch))

    def load(self, folder):
        self.epoch = json.loads((folder / "position.json").read_text())
