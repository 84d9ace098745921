"""Output of the demo: numbered chapters, sentences and tables."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from orchestrator.config.tables import table
from orchestrator.report.page import Cell, show


@dataclass(slots=True)
class Narrator:
    """Writes what happens, as it happens.

    Attributes:
        stream: Where the text goes.
    """

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    _chapters: int = 0
    _started: float = field(default_factory=time.monotonic)

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._chapters += 1
        self._write(f"\n[{self._chapters}] {title}   ({self.seconds():.0f} s)")

    def say(self, sentence: str) -> None:
        """Print a sentence of the chapter."""
        self._write(f"    {sentence}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Print rows under the names of their columns; nothing without rows."""
        for line in table([[show(cell) for cell in row] for row in rows], columns).splitlines():
            self._write(f"      {line}")

    def seconds(self) -> float:
        """Return the seconds since the demo began."""
        return time.monotonic() - self._started

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()
