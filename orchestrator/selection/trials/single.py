"""Trials of one step: forward passes, latencies, packages of finalists, salvage.

They run in Tune actors and import no Ray. The same processes run the fine-tuning trials: torch, the
rows and their packages are loaded once.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.selection.costs.latency import try_time
from orchestrator.selection.costs.results import Latency
from orchestrator.selection.results import EpochResult, ProxyScore
from orchestrator.selection.scores.features import ProxyPayload, try_package
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.selection.trials.starting import clock

if TYPE_CHECKING:
    from orchestrator.selection.salvage.results import Salvage
    from orchestrator.selection.salvage.trial import SalvagePayload


class SingleStep:
    """A trial with one step."""

    def __init__(self) -> None:
        self.done = False

    def save(self, folder: Path) -> None:
        """Nothing to write: there is one step."""

    def load(self, folder: Path) -> None:
        """Nothing was written."""

    def _start(self) -> float:
        """Import torch; return the seconds of start-up so far."""
        asked = time.perf_counter()
        import orchestrator.modeling.package  # noqa: F401 - start-up, not the pass

        self.done = True
        return clock.seconds(asked)


class ProxyTrial(SingleStep):
    """Scores one package by proxies.

    Args:
        payload: The package, the task and the proxies.
    """

    def __init__(self, payload: ProxyPayload) -> None:
        super().__init__()
        self._payload = payload

    def step(self) -> ProxyScore:
        """Return the scores; an error that a retry would repeat is a result as well."""
        startup = self._start()
        score = try_package(self._payload)
        return score.model_copy(update={"startup_s": score.startup_s + startup})


class LatencyTrial(SingleStep):
    """Measures the latency of one package.

    Args:
        payload: The package and the task.
    """

    def __init__(self, payload: ProxyPayload) -> None:
        super().__init__()
        self._payload = payload

    def step(self) -> Latency:
        """Return the latency; an error that a retry would repeat is a result as well."""
        startup = self._start()
        found = try_time(self._payload)
        return found.model_copy(update={"startup_s": found.startup_s + startup})


class FinishTrial(SingleStep):
    """Makes the package of a trial that is not trained to the end.

    Args:
        payload: The trial.
    """

    def __init__(self, payload: TrialPayload) -> None:
        super().__init__()
        self._payload = payload

    def step(self) -> EpochResult:
        """Return its last epoch, with the test score."""
        self._start()
        return FineTuneTrial(self._payload).finish()


class MergeTrial(SingleStep):
    """Merges trained candidates of the winner's base into it.

    Args:
        payload: Their trials, and where the result is committed.
    """

    def __init__(self, payload: "SalvagePayload") -> None:
        super().__init__()
        self._payload = payload

    def step(self) -> "Salvage":
        """Return what was measured."""
        from orchestrator.selection.salvage.trial import salvage_winner

        self._start()
        payload = self._payload
        return salvage_winner(payload.winner, payload.donors, Path(payload.folder))
