"""Threads of a trial that has the CPUs of idle slots.

A trial that trains beside an idle slot uses that slot's CPUs, too: models of `MIN_WEIGHTS` and
more, on a cluster that the run has started, on a host with nothing else to do. What it gets when it
starts is in its payload. Slots that become idle while it trains are lent to it by a file beside its
state (`lend`), at which it looks between its steps.

At a load of 27 on 2 cores a second thread made training 3 to 9 times slower: each operation waits
for the slowest thread. The number of threads changes the order of sums, and so may change the last
bits of a result; the ``slots`` of a row say how many were used, as their mean over its seconds.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.storage import atomic_write_json, read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.selection.trials.fine_tuning import TrialPayload
    from orchestrator.training.engines.engine import Batch, Engine
    from orchestrator.training.finetune.finetuner import FineTuner
    from orchestrator.training.metrics import StepMetrics

MIN_WEIGHTS = 1_000_000
"""Weights of the body of the smallest model that gets more threads. Below, handing operations out
to threads costs about what it saves; an estimate, not a measurement."""
BUSY = 2.0
"""Processes that want to run, per slot, from which a host counts as busy; an estimate, too."""
LOOK_EVERY_S = 0.5
"""Seconds between two looks at what is lent."""


def is_busy(slots: int) -> bool:
    """Return whether this host had other work in the last minute.

    Args:
        slots: Trials that run on it at once.
    """
    return os.getloadavg()[0] > BUSY * slots


def lend(state: str, rung: int, slots: int) -> None:
    """Tell a trial that trains how many slots it may use from now on.

    Args:
        state: Folder of its training state.
        rung: The rung that it trains; what was lent ends with it.
        slots: Its own slot and those that are lent.
    """
    atomic_write_json(_file(state), {"rung": rung, "slots": slots})


class UsedSlots:
    """Slots that a trial uses in one rung: a context in which torch has their threads.

    Args:
        tuner: Trains; a small model uses one slot only.
        payload: The trial, with the slots that it starts with.
        rung: The rung.
    """

    def __init__(self, tuner: "FineTuner", payload: "TrialPayload", rung: int) -> None:
        weights = sum(each.numel() for each in tuner.model.encoder.parameters())
        self._alone = bool(payload.gpus) or weights < MIN_WEIGHTS
        self._tuner, self._file, self._rung = tuner, _file(payload.state), rung
        self._now = 1 if self._alone else payload.slots
        self._seconds = self._slot_seconds = 0.0

    def __enter__(self) -> "UsedSlots":
        import torch

        self._threads, self._step = torch.get_num_threads(), self._tuner.step_fn
        self._since = self._looked = time.monotonic()
        if not self._alone:
            torch.set_num_threads(self._threads * self._now)
            self._tuner.step_fn = self._take
        return self

    def __exit__(self, *_: object) -> None:
        self._count()
        if not self._alone:
            import torch

            torch.set_num_threads(self._threads)
            self._tuner.step_fn = self._step

    @property
    def mean(self) -> float:
        """Mean number of slots over the seconds in the context, once it has ended."""
        return round(self._slot_seconds / self._seconds, 3)

    def _take(self, engine: "Engine", window: "Sequence[Batch]", rate: float) -> "StepMetrics":
        """Take a step with the slots that it may use.

        Threads belong to the thread that calls torch's operations: no other one could set them.
        """
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._look()
        return self._step(engine, window, rate)

    def _look(self) -> None:
        import torch

        if not self._file.exists():
            return
        lent = read_json(self._file)
        if lent["rung"] == self._rung and lent["slots"] != self._now:
            self._count()
            self._now = int(lent["slots"])
            torch.set_num_threads(self._threads * self._now)

    def _count(self) -> None:
        now = time.monotonic()
        self._seconds += now - self._since
        self._slot_seconds += (now - self._since) * self._now
        self._since = now


def _file(state: str) -> Path:
    return Path(f"{state}.slots.json")
