"""A trial that plays a stored learning curve through the real scheduler."""

import json

from orchestrator.selection.results import EpochResult


class CurveTrial:
    """Takes ``trial``, ``curve`` (validation per epoch, then the final test), ``start`` and
    ``fails_at`` (an epoch that raises, 0: never)."""

    def __init__(self, payload):
        self.payload = payload
        self.epoch = payload["start"]

    def step(self):
        self.epoch += 1
        if self.epoch == self.payload["fails_at"]:
            raise RuntimeError(f"epoch {self.epoch} fails as planned")
        curve = self.payload["curve"]
        last = self.epoch == len(curve) - 1
        row = EpochResult(
            trial=self.payload["trial"],
            rung=self.epoch,
            validation=curve[self.epoch - 1],
            test=curve[-1] if last else None,
        )
        return {**row.model_dump(), "done": last}

    def save(self, folder):
        (folder / "position.json").write_text(json.dumps(self.epoch))

    def load(self, folder):
        self.epoch = json.loads((folder / "position.json").read_text())
