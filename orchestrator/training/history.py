"""Learning curves in long form: one row a step, split and metric (``history.parquet``)."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = {
    "step": "int64",
    "epoch": "float64",
    "split": "str",
    "metric": "str",
    "value": "float64",
    "seconds": "float64",
}


class History:
    """Rows of (step, epoch, split, metric, value, seconds since the run began).

    Args:
        rows: Rows of an earlier part of the run; time goes on from its last one.
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows = list(rows or [])
        offset = max((float(row["seconds"]) for row in self.rows), default=0.0)
        self._began = time.monotonic() - offset

    @property
    def seconds(self) -> float:
        """Seconds since the run began, pauses between its parts not counted."""
        return time.monotonic() - self._began

    def log(
        self,
        step: int,
        split: str,
        metrics: Mapping[str, float],
        epoch: float = 0.0,
    ) -> None:
        """Add one row a metric.

        Args:
            step: Optimizer steps done.
            split: ``train``, ``validation`` or ``test``.
            metrics: Names to values.
            epoch: Epochs done.
        """
        at = self.seconds
        for metric, value in metrics.items():
            row = {"step": step, "epoch": epoch, "split": split, "metric": metric}
            self.rows.append({**row, "value": float(value), "seconds": at})

    def observe(self, event: Mapping[str, Any]) -> None:
        """Add an event of ``training.loop`` (its ``Observer``).

        Timed here, not by the event: a resumed loop begins again at 0, this clock goes on.
        """
        self.log(event["step"], event["split"], event["metrics"], event["epoch"])

    def truncate(self, step: int) -> None:
        """Drop rows after ``step``: a resumed run writes them again."""
        self.rows = [row for row in self.rows if row["step"] <= step]

    def frame(self) -> pd.DataFrame:
        """Return all rows as a table with the columns of ``COLUMNS``."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS)

    def to_parquet(self, path: Path) -> None:
        """Write the table."""
        self.frame().to_parquet(path, index=False)

    @classmethod
    def from_parquet(cls, path: Path) -> "History":
        """Continue a table written by :meth:`to_parquet`."""
        rows: list[dict[str, Any]] = pd.read_parquet(path).to_dict(orient="records")  # type: ignore[assignment]
        return cls(rows)
