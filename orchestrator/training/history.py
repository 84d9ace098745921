"""Learning curves in long form: one row per step, split and metric (``history.parquet``)."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AllowInfNan

from orchestrator.config.strict import StrictModel
from orchestrator.training.events import Measurement

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One value of a learning curve.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done.
        split: ``train``, ``validation`` or ``test``.
        metric: Name of the metric.
        value: May be NaN or infinite, where a run diverged.
        seconds: Seconds since the run began, pauses between its parts not counted.
    """

    step: int
    epoch: float
    split: str
    metric: str
    value: Annotated[float, AllowInfNan(True)]
    seconds: float


COLUMNS = {
    "step": "int64",
    "epoch": "float64",
    "split": "str",
    "metric": "str",
    "value": "float64",
    "seconds": "float64",
}
"""Types of the columns of the table."""


Keep = Callable[[HistoryRow], bool]
"""Whether a row stays in memory after it has been stored."""


class CurvePosition(StrictModel):
    """Place in the curves of a run that a checkpoint goes on from (`curve_parts`)."""

    rows: int = 0
    """Rows logged until then."""
    last: str = ""
    """Name of the part that holds the last of them; empty: there are none."""


class History:
    """Learning curves of one run.

    Args:
        rows: Rows of an earlier part of the run; time continues from its last one.
        taken: They are stored already, see :meth:`take`.

    Attributes:
        rows: The rows in memory.
    """

    def __init__(self, rows: Iterable[HistoryRow] = (), *, taken: bool = False) -> None:
        self.rows = list(rows)
        self._taken = len(self.rows) if taken else 0
        offset = max((row.seconds for row in self.rows), default=0.0)
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
        """Add one row per metric.

        Args:
            step: Optimizer steps done.
            split: ``train``, ``validation`` or ``test``.
            metrics: Names to values.
            epoch: Epochs done.
        """
        at = self.seconds
        for metric, value in metrics.items():
            self.rows.append(HistoryRow(step, epoch, split, metric, float(value), at))

    def observe(self, event: Measurement) -> None:
        """Add what the training loop reports (an ``Observer``).

        Timed here, not by the event: the clock of a resumed loop starts at 0, this one continues.
        """
        self.log(event.step, event.split, event.metrics, event.epoch)

    def take(self) -> list[HistoryRow]:
        """Return the rows since the last call."""
        new, self._taken = self.rows[self._taken :], len(self.rows)
        return new

    def forget(self, keep: Keep) -> None:
        """Drop the rows that were taken, except the last one, which has the time, and some more."""
        taken = self.rows[: self._taken]
        if taken:
            kept = [*filter(keep, taken[:-1]), taken[-1]]
            self.rows[: self._taken], self._taken = kept, len(kept)

    def frame(self) -> "pd.DataFrame":
        """Return all rows as a table with the columns of ``COLUMNS``."""
        import pandas as pd

        rows = [asdict(row) for row in self.rows]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)

    def to_parquet(self, path: Path) -> None:
        """Write the table."""
        self.frame().to_parquet(path, index=False)

    @classmethod
    def from_parquet(cls, path: Path) -> "History":
        """Continue a table written by :meth:`to_parquet`."""
        import pandas as pd

        table = pd.read_parquet(path)
        columns = [table[each.name].tolist() for each in fields(HistoryRow)]
        return cls(HistoryRow(*row) for row in zip(*columns, strict=True))
