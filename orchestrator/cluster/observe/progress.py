"""Progress on standard error: a bar on a terminal, one line per interval in a log."""

import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

LINE_EVERY_S = 5.0
REDRAW_EVERY_S = 0.1
WIDTH = 24


class Closes(ABC):
    """Closes itself at the end of a ``with`` block, however that ends."""

    @abstractmethod
    def close(self) -> None:
        """Finish what is shown or written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Progress(Closes):
    """Shows how far a piece of work is.

    Args:
        title: What is being done; first on the line.
        total: How many units the work has; 0 when nobody knows.
        unit: What is counted.
        stream: Where to write; standard error by default.
    """

    def __init__(
        self, title: str, total: int, unit: str = "step", stream: TextIO | None = None
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.note = 0, ""
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._began = self._shown = time.monotonic()
        self._first: int | None = None
        self._written = -1

    def update(self, done: int, note: str = "") -> None:
        """Say how many units are done, and what else is worth showing.

        Args:
            done: Units done in all; the first call's is where a resumed run begins.
            note: Short text behind the count, such as the loss.
        """
        self.done, self.note = done, note
        self._first = done if self._first is None else self._first
        now = time.monotonic()
        if now - self._shown >= (REDRAW_EVERY_S if self._terminal else LINE_EVERY_S):
            self._show(now)

    def close(self) -> None:
        """Show the last state, and leave the bar's line."""
        if self._first is None:
            return
        if self._terminal or self._written != self.done:
            self._show(time.monotonic())
        if self._terminal:
            self._write("\n")

    def line(self, now: float) -> str:
        """Return the text at a moment of the monotonic clock."""
        elapsed = now - self._began
        parts = [self.title, f"{self.unit} {self.done}"]
        if self.total:
            parts[-1] += f"/{self.total}"
        if self.note:
            parts.append(self.note)
        parts.append(_duration(elapsed))
        left = self._left(elapsed)
        if left is not None:
            parts.append(f"{_duration(left)} left")
        return "  ".join(parts)

    def _left(self, elapsed: float) -> float | None:
        advanced = self.done - (self._first or 0)
        if not self.total or advanced <= 0 or self.done >= self.total:
            return None
        return elapsed * (self.total - self.done) / advanced

    def _show(self, now: float) -> None:
        self._shown, self._written = now, self.done
        text = self.line(now)
        if not self._terminal:
            self._write(text + "\n")
        elif self.total:
            filled = min(WIDTH, WIDTH * self.done // self.total)
            bar = "█" * filled + "░" * (WIDTH - filled)
            self._write(f"\r\033[K{bar}  {text}")
        else:
            self._write(f"\r\033[K{text}")

    def _write(self, text: str) -> None:
        """Write; where the terminal is gone nobody sees it, and the work goes on."""
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
