"""A bar on a terminal, lines in a log."""

import errno
import io
import itertools

import pytest

from orchestrator.cluster.observe import progress
from orchestrator.cluster.observe.progress import Progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by three seconds a look."""
    ticks = itertools.count(0, 3)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


def test_a_log_gets_a_line_an_interval(clock):
    stream = io.StringIO()
    with Progress("bert", 10, stream=stream) as shown:
        for step in range(1, 11):
            shown.update(step, f"loss {step}")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("bert  step 2/10  loss 2  6 s")
    assert lines[-1].startswith("bert  step 10/10")
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_a_bar_and_a_last_newline(clock):
    stream = Terminal()
    with Progress("bert", 4, stream=stream) as shown:
        shown.update(2)
        shown.update(4)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert "█" * progress.WIDTH in text


def test_time_left_counts_from_where_a_resumed_run_began(clock):
    shown = Progress("x", 100, stream=io.StringIO())
    shown.update(50)
    shown.done = 60
    assert shown.line(20.0).endswith("20 s  1:20 min left")


def test_nothing_is_written_when_nothing_happened():
    stream = io.StringIO()
    with Progress("x", 3, stream=stream):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1:01 min"), (7322, "2:02 h")]
)
def test_durations(seconds, text):
    assert progress._duration(seconds) == text


def test_a_terminal_that_is_gone_does_not_end_the_work():
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    bar = Progress("training", 10, stream=Gone())
    bar.update(1)
    bar.close()
    assert bar.done == 1
