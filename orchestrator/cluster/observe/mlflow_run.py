"""MLflow tracking of one run, across interruptions.

A thread of its own sends the requests: a slow server delays nothing, and an unreachable one costs
a warning. Requires the extra ``tracking``.
"""

import importlib
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError
from orchestrator.training.config import MlflowConfig
from orchestrator.training.events import Measurement

logger = logging.getLogger(__name__)

IDENTITY = "orchestrator.run_id"
"""Tag that finds the MLflow run of a job again, even after a crash right after its creation."""
PACKAGE = "orchestrator.package"
BATCH = 500
"""Values per request (MLflow allows 1000)."""
MAX_CHARACTERS = 500
"""Length of a parameter's value (stores of older versions refuse more)."""
CLOSE_S = 30.0
"""Grace period for sending the last values."""


class MlflowRun:
    """Curves, parameters and the package of one run.

    Args:
        config: Store and experiment.
        name: Name of the run.
        identity: What distinguishes it from all other runs; the same after a restart.
        parameters: Settings of the run, flat; written once.
        fallback: Folder for a database of its own where no store is named.

    Raises:
        InputError: The store cannot be reached.
    """

    def __init__(
        self,
        config: MlflowConfig,
        name: str,
        identity: str,
        parameters: Mapping[str, str],
        fallback: Path,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = importlib.import_module("mlflow")  # an extra: nothing here is typed by it
        self._entities: Any = importlib.import_module("mlflow.entities")
        uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = uri or f"sqlite:///{fallback.resolve() / 'mlflow.db'}"
        self._errors: tuple[type[Exception], ...] = (mlflow.exceptions.MlflowException, OSError)
        try:
            self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
            self.id, self._last = self._open(config.experiment, name, identity, parameters)
        except self._errors as error:
            raise InputError(
                f"tracking.mlflow: {config.tracking_uri or 'the store'} cannot be used: "
                f"{str(error).strip().splitlines()[0]}. Start the server, or leave "
                "tracking.mlflow out."
            ) from error
        self._queue: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._complained = False
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    def _open(
        self,
        experiment: str,
        name: str,
        identity: str,
        parameters: Mapping[str, str],
    ) -> tuple[str, dict[str, int]]:
        """Return the run's id, and the last step that it has of each metric."""
        found = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment) if found is None else found.experiment_id
        mine = f"tags.`{IDENTITY}` = '{identity}'"
        runs = self._client.search_runs([place], mine, max_results=1)
        if runs:
            self._client.update_run(runs[0].info.run_id, status="RUNNING")
            return runs[0].info.run_id, self._written(runs[0].info.run_id, runs[0].data.metrics)
        made = self._client.create_run(place, run_name=name, tags={IDENTITY: identity})
        every = [
            self._entities.Param(key, value[:MAX_CHARACTERS]) for key, value in parameters.items()
        ]
        for part in (every[at : at + 100] for at in range(0, len(every), 100)):
            self._client.log_batch(made.info.run_id, params=part)
        return made.info.run_id, {}

    def _written(self, run: str, metrics: Mapping[str, float]) -> dict[str, int]:
        return {
            key: max((each.step for each in self._client.get_metric_history(run, key)), default=-1)
            for key in metrics
        }

    def resume(self, step: int) -> None:
        """Do nothing: steps that are trained again are not written again."""

    def observe(self, event: Measurement) -> None:
        """Take the metrics of one interval or evaluation."""
        step, now = event.step, int(time.time() * 1000)
        values = []
        for name, value in event.metrics.items():
            key = f"{event.split}/{name}"
            if math.isfinite(value) and step > self._last.get(key, -1):
                values.append(self._entities.Metric(key, float(value), now, step))
                self._last[key] = step
        self._queue.put(values)

    def finish(self, status: str, package: str | None = None) -> None:
        """Write what is pending and how the run ended.

        Args:
            status: MLflow's word for it: FINISHED, FAILED, or KILLED, which may be continued.
            package: Reference of the package that was committed.
        """
        self.close()
        try:
            if package is not None:
                self._client.set_tag(self.id, PACKAGE, package)
            self._client.set_terminated(self.id, status)
        except self._errors as error:
            logger.warning("MLflow was not told how run %s ended: %s", self.id, error)

    def close(self) -> None:
        """Write what is pending."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.warning("MLflow does not answer; the last values of run %s are lost", self.id)

    def _send(self) -> None:
        pending: list[Any] = []
        for values in iter(self._queue.get, None):
            pending = self._sent([*pending, *values])
        self._sent(pending)

    def _sent(self, values: list[Any]) -> list[Any]:
        """Send values; return those that are left for the next attempt."""
        for at in range(0, len(values), BATCH):
            try:
                self._client.log_batch(self.id, metrics=values[at : at + BATCH])
            except self._errors as error:
                if not self._complained:
                    logger.warning("MLflow did not take values, training goes on: %s", error)
                self._complained = True
                return values[at:]
        return []


def flat(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a config as ``a.b.0.c`` and text; secrets are already hidden in it."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from flat(value, f"{path}.{index}")
    else:
        yield path, "null" if values is None else str(values)
