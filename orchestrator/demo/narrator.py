"""What the demo tells the person who watches it, and remembers for ``summary.json``."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from orchestrator.report.page import show


@dataclass(slots=True)
class Narrator:
    """Writes headings, sentences and tables; keeps every figure it printed.

    Attributes:
        stream: where the text goes.
        figures: what was printed, by chapter.
    """

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    _chapter: str = ""
    _started: float = field(default_factory=time.monotonic)

    def chapter(self, key: str, title: str) -> None:
        """Begin a chapter; the figures that follow belong to it."""
        self._chapter = key
        self.figures.setdefault(key, {})
        number = len(self.figures)
        self._write(f"\n[{number}] {title}   ({time.monotonic() - self._started:.0f} s)")

    def say(self, sentence: str, **figures: Any) -> None:
        """Print a sentence and remember the figures in it."""
        self.remember(**figures)
        self._write(f"    {sentence}")

    def remember(self, **figures: Any) -> None:
        """Keep figures of this chapter."""
        self.figures[self._chapter].update(figures)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print rows under their column names and remember them as ``name``."""
        self.remember(**{name: [dict(row) for row in rows]})
        if not rows:
            return
        columns = list(rows[0])
        cells = [columns, *([show(row.get(column)) for column in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells:
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self._write(f"      {text.rstrip()}")

    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()
