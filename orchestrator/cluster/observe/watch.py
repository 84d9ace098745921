"""Show and record what the workers of a launch report while they train.

Events are what ``training.loop`` tells its observer, with ``event: metrics`` and the name of the
run added; ``event: training`` says that a run begins or goes on, and at which step; ``event:
rollback`` that it went back to one.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from orchestrator.cluster.observe.metrics import TrainingMetrics
from orchestrator.cluster.observe.progress import Closes, Progress
from orchestrator.cluster.observe.tracking import Tracker, Watched

logger = logging.getLogger(__name__)


class Watcher(Closes):
    """Feeds a progress bar, Ray's metrics and the trackers of a run with the events of a launch.

    Args:
        stage: The stage, like ``pretrain``.
        runs: The runs of the launch, by name.
    """

    def __init__(self, stage: str, runs: Mapping[str, Watched]) -> None:
        self._runs = runs
        self._metrics = TrainingMetrics(stage)
        self._run: str | None = None
        self._progress: Progress | None = None
        self._trackers: list[Tracker] = []
        self._validation = ""

    def observe(self, event: dict[str, Any]) -> None:
        """Take one event of the workers."""
        if event["event"] == "training":
            self._begin(event["run"], event["step"])
        elif event["event"] == "metrics":
            self._measured(event)
        elif "message" in event:
            logger.warning("%s", event["message"])
        if event["event"] == "rollback":
            self._resume(event["step"])

    def _begin(self, run: str, step: int) -> None:
        if run != self._run:
            self.close()
            self._run, self._validation = run, ""
            self._trackers = self._runs[run].trackers()
            self._progress = Progress(run, self._runs[run].steps)
        self._resume(step)

    def _resume(self, step: int) -> None:
        for tracker in self._trackers:
            tracker.resume(step)
        if self._progress is not None:
            self._progress.update(step)

    def _measured(self, event: dict[str, Any]) -> None:
        self._metrics.observe(event["run"], event)
        for tracker in self._trackers:
            tracker.observe(event)
        metrics = event["metrics"]
        loss = metrics.get("loss", math.nan)  # none was finite, or nothing had a label
        if event["split"] == "validation":
            self._validation = f"  validation {loss:.3f}"
        elif self._progress is not None:
            note = f"loss {loss:.3f}  {metrics['tokens_per_second']:,.0f} tokens/s"
            self._progress.update(event["step"], note + self._validation)

    def close(self) -> None:
        """Close the bar and the trackers of the present run."""
        if self._progress is not None:
            self._progress.close()
        for tracker in self._trackers:
            tracker.close()
        self._run, self._progress, self._trackers = None, None, []
