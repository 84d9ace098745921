"""Display and recording of the events of a launch: progress bar, Ray's metrics, trackers."""

import logging
import math
from collections.abc import Mapping

from orchestrator.cluster.observe.progress import Closes, Progress
from orchestrator.cluster.observe.tracking import Tracker, Watched
from orchestrator.training.events import Event, Measurement, Notice, RolledBack, RunStarted

logger = logging.getLogger(__name__)

LABELS = ("stage", "run", "split")
GAUGES = {
    "loss": "Weighted loss of all targets.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Gradient norm before clipping.",
    "tokens_per_second": "Tokens per second over all workers, padding not counted.",
    "model_flops_per_second": "Floating-point operations per second by formula, over all workers.",
    "mfu": "Share of the devices' published peak; on CPUs, of what matrix products reach.",
    "data_wait_share": "Share of the workers' time spent waiting for data.",
    "memory_bytes": "Largest peak of a worker's memory.",
    "checkpoint_seconds": "Seconds spent on checkpoints in the last interval.",
}


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

    def observe(self, event: Event) -> None:
        """Take one event of the workers."""
        if isinstance(event, RunStarted):
            if event.message:
                logger.info("%s: %s", event.run, event.message)
            self._begin(event.run, event.step)
        elif isinstance(event, Measurement):
            self._measured(event)
        elif isinstance(event, Notice):
            logger.warning("%s", event.message)
        if isinstance(event, RolledBack):
            self._resume(event.step)

    def _begin(self, run: str, step: int) -> None:
        logger.info("%s: step %d is the next", run, step + 1)
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

    def _measured(self, event: Measurement) -> None:
        self._metrics.record(event.run, event.step, event.split, event.metrics)
        for tracker in self._trackers:
            tracker.observe(event)
        loss = event.metrics.get("loss", math.nan)  # none was finite, or nothing had a label
        if event.split == "validation":
            self._validation = f"  validation {loss:.3f}"
        elif self._progress is not None:
            speed = event.metrics.get("tokens_per_second")
            note = "" if speed is None else f"  {speed:,.0f} tokens/s"
            self._progress.update(event.step, f"loss {loss:.3f}{note}{self._validation}")

    def close(self) -> None:
        """Close the bar and the trackers of the present run."""
        if self._progress is not None:
            self._progress.close()
        for tracker in self._trackers:
            tracker.close()
        self._run, self._progress, self._trackers = None, None, []


class TrainingMetrics:
    """Ray metrics ``orch_train_*`` of a stage's runs; make one per process.

    Args:
        stage: The stage, like ``pretrain``.
    """

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._stage = stage
        self._gauges = {
            name: Gauge(f"orch_train_{name}", description=text, tag_keys=LABELS)
            for name, text in GAUGES.items()
        }
        self._step = Gauge("orch_train_step", "Optimizer steps done.", tag_keys=LABELS[:2])
        self._tokens = Counter(
            "orch_train_tokens_total", "Tokens trained on, padding not counted.", LABELS[:2]
        )
        self._skipped = Counter(
            "orch_train_skipped_steps_total", "Steps skipped by the loss guard.", LABELS[:2]
        )

    def record(self, run: str, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Set the gauges of a run.

        Args:
            run: Name of the run.
            step: Optimizer steps done.
            split: ``train`` or ``validation``.
            metrics: Values by name; names that have no gauge are left out.
        """
        tags = {"stage": self._stage, "run": run}
        for name, gauge in self._gauges.items():
            if name in metrics:
                gauge.set(metrics[name], {**tags, "split": split})
        if split == "train":
            self._step.set(step, tags)
            for counter, key in ((self._tokens, "tokens"), (self._skipped, "skipped")):
                if metrics.get(key, 0) > 0:
                    counter.inc(metrics[key], tags)
