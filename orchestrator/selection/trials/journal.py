"""``trials.jsonl``: every finished (trial, rung), appended and synced to disk before it counts.

Ray Tune restores trials but not the decisions of a scheduler. An interrupted selection or benchmark
therefore continues from this file: decisions are derived again from its rows.
"""

import json
import os
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import IntegrityError
from orchestrator.selection.results import JournalRow


class Journal:
    """Append-only rows of one run; a (phase, trial, rung, rate) is written at most once.

    Args:
        path: The file; an incomplete last line (the writer was killed) is removed.

    Raises:
        IntegrityError: A line before the last is not a row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[JournalRow] = []
        if path.exists():
            self._read()
        self._known = {_key(row) for row in self.rows}

    def append(self, row: JournalRow) -> bool:
        """Write a row; return False when this (phase, trial, rung, rate) was written before."""
        if _key(row) in self._known:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(row.model_dump(), sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self._known.add(_key(row))
        return True

    def of(self, trial: str) -> list[JournalRow]:
        """Rows of one trial, oldest first."""
        return [row for row in self.rows if row.trial == trial]

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self.rows.append(JournalRow.model_validate_json(line))
            except ValidationError as error:
                raise IntegrityError(
                    f"{self.path}, line {number}: not a finished epoch ({error}). Delete the run "
                    "folder to start this run again."
                ) from error
        if len(whole) != len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())


def _key(row: JournalRow) -> tuple[str, str, int, float | None]:
    """Identity of a row; an epoch counts once, whatever its rate."""
    rate = row.learning_rate if row.phase == "learning rate" else None
    return row.phase, row.trial, row.rung, rate
