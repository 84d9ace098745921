"""``trials.jsonl``: every finished (trial, rung), appended and brought to disk before it counts.

Ray Tune restores trials but not the scheduler's decisions, so this file, not Tune's state, is what
an interrupted selection or benchmark continues from: decisions are derived again from its rows.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Row:
    """One finished epoch of one trial, or its failure.

    Attributes:
        trial: Trial id (for a selection the model's id).
        rung: Epoch, 1-based.
        validation: Score after it; None when the trial failed.
        test: Final test score, after the last epoch only.
        steps: Optimizer steps that this epoch took.
        seconds: Wall time of this epoch.
        finished_at: Unix time at which the epoch's state was committed.
        error: Why the trial failed.
    """

    trial: str
    rung: int
    validation: float | None
    test: float | None = None
    steps: int = 0
    seconds: float = 0.0
    finished_at: float = 0.0
    error: str = ""


def row_of(result: Mapping[str, Any]) -> Row:
    """The row in a trial's result, among whatever else the result says."""
    return Row(**{name: result[name] for name in Row.__slots__ if name in result})


class Journal:
    """Append-only rows of one run; a (trial, rung) is written at most once.

    Args:
        path: The file; a torn last line (the writer was killed) is cut off.

    Raises:
        IntegrityError: A line before the last is not a row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        if path.exists():
            self._read()
        self._known = {(row.trial, row.rung) for row in self.rows}

    def append(self, row: Row) -> bool:
        """Write a row; False when this (trial, rung) is there already."""
        if (row.trial, row.rung) in self._known:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(asdict(row), sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self._known.add((row.trial, row.rung))
        return True

    def of(self, trial: str) -> list[Row]:
        """Rows of one trial, in order."""
        return [row for row in self.rows if row.trial == trial]

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self.rows.append(Row(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise IntegrityError(
                    f"{self.path}, line {number}: not a finished epoch ({error}). Delete the run "
                    "folder to start this run again."
                ) from error
        if len(whole) != len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
