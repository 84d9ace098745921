"""Threads of a trial that has the CPUs of idle slots.

A survivor that trains beside an idle slot uses that slot's CPUs, too: models of `MIN_WEIGHTS` and
more, on a cluster that the run has started, on a host with nothing else to do. At a load of 27 on
2 cores a second thread made training 3 to 9 times slower: each operation waits for the slowest
thread. The number of threads changes the order of sums, and so may change the last bits of a
result; the ``slots`` of a row say how many were used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.modeling.model import Model
    from orchestrator.selection.trials.fine_tuning import TrialPayload

MIN_WEIGHTS = 1_000_000
"""Weights of the body of the smallest model that gets more threads. Below, handing operations out
to threads costs about what it saves; an estimate, not a measurement."""
BUSY = 2.0
"""Processes that want to run, per slot, from which a host counts as busy; an estimate, too."""


def is_busy(slots: int) -> bool:
    """Return whether this host had other work in the last minute.

    Args:
        slots: Trials that run on it at once.
    """
    return os.getloadavg()[0] > BUSY * slots


def slots_used(model: "Model", payload: "TrialPayload") -> int:
    """Return how many slots a trial occupies: those it was given if its model is large enough."""
    if payload.slots == 1 or payload.gpus:
        return 1
    weights = sum(each.numel() for each in model.encoder.parameters())
    return payload.slots if weights >= MIN_WEIGHTS else 1


@contextmanager
def more_threads(factor: int) -> Iterator[None]:
    """Multiply the threads of torch's operations for the length of a ``with`` block."""
    import torch

    before = torch.get_num_threads()
    try:
        if factor > 1:
            torch.set_num_threads(before * factor)
        yield
    finally:
        if factor > 1:
            torch.set_num_threads(before)
