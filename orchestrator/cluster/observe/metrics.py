"""Training metrics for dashboards, exported by Ray and scraped by Prometheus.

They are set on the driver from the workers' events; a worker needs nothing.
"""

from collections.abc import Mapping

LABELS = ("stage", "run", "split")
GAUGES = {
    "loss": "Weighted loss of all targets.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Gradient norm before clipping.",
    "tokens_per_second": "Tokens per second over all workers, padding not counted.",
    "model_flops_per_second": "Floating-point operations per second by formula, over all workers.",
    "mfu": "Share of what matrix products reach on these devices.",
    "data_wait_share": "Share of the workers' time spent waiting for data.",
    "memory_bytes": "Largest peak of a worker's memory.",
    "checkpoint_seconds": "Seconds spent on checkpoints in the last interval.",
}


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
