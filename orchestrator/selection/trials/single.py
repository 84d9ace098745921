"""Forward passes and latencies as trials of one step; they run in Tune actors and import no Ray.

The process goes on with fine-tuning trials: torch, the rows and their packages are loaded once.
"""

import time
from pathlib import Path

from orchestrator.selection.costs.latency import try_time
from orchestrator.selection.costs.results import Latency
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.features import ProxyPayload, try_package
from orchestrator.selection.trials.starting import clock


class SingleStep:
    """A trial with one step.

    Args:
        payload: The package, the task and the proxies.
    """

    def __init__(self, payload: ProxyPayload) -> None:
        self._payload = payload
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
    """Scores one package by proxies."""

    def step(self) -> ProxyScore:
        """Return the scores; an error that a retry would repeat is a result as well."""
        startup = self._start()
        score = try_package(self._payload)
        return score.model_copy(update={"startup_s": score.startup_s + startup})


class LatencyTrial(SingleStep):
    """Measures the latency of one package."""

    def step(self) -> Latency:
        """Return the latency; an error that a retry would repeat is a result as well."""
        startup = self._start()
        found = try_time(self._payload)
        return found.model_copy(update={"startup_s": found.startup_s + startup})
