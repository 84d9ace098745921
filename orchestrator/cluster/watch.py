"""Show and record what the workers of a launch report while they train.

Events are what ``training.loop`` tells its observer, with ``event: metrics`` and the name of the
run added; ``event: training`` says that a run begins, and at which step.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.metrics import TensorBoard, TrainingMetrics
from orchestrator.cluster.progress import Closes, Progress

_LOG = logging.getLogger(__name__)
TENSORBOARD = "tensorboard"


class Watcher(Closes):
    """Feeds a progress bar, Ray's metrics and TensorBoard with the events of a launch.

    Args:
        stage: The stage, like ``pretrain``.
        runs: Folder and number of steps of each run, by name.
    """

    def __init__(self, stage: str, runs: Mapping[str, tuple[Path, int]]) -> None:
        self._runs = runs
        self._metrics = TrainingMetrics(stage)
        self._progress: Progress | None = None
        self._board: TensorBoard | None = None
        self._validation = ""

    def observe(self, event: dict[str, Any]) -> None:
        """Take one event of the workers."""
        if event["event"] == "training":
            self._begin(event["run"], event["step"])
        elif event["event"] == "metrics":
            self._measured(event)
        elif "message" in event:
            _LOG.warning("%s", event["message"])

    def _begin(self, run: str, step: int) -> None:
        self.close()
        folder, steps = self._runs[run]
        self._validation = ""
        self._board = TensorBoard(folder / TENSORBOARD)
        self._progress = Progress(run, steps)
        self._progress.update(step)

    def _measured(self, event: dict[str, Any]) -> None:
        self._metrics.observe(event["run"], event)
        if self._board is None or self._progress is None:
            return
        self._board.observe(event)
        metrics = event["metrics"]
        if event["split"] == "validation":
            self._validation = f"  validation {metrics['loss']:.3f}"
            return
        note = f"loss {metrics['loss']:.3f}  {metrics['tokens_per_second']:,.0f} tokens/s"
        self._progress.update(event["step"], note + self._validation)

    def close(self) -> None:
        """Close the bar and the TensorBoard file of the present run."""
        if self._progress is not None:
            self._progress.close()
        if self._board is not None:
            self._board.close()
