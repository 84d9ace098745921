"""Interleaved timing: ratios within a round are right on a machine that slows down."""

import pytest

from orchestrator.quantization.measures import latency
from orchestrator.quantization.measures.latency import compare


class Clock:
    """A clock that moves only during work; the machine gets slower all the time."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(latency.time, "thread_time", lambda: self.now)
        monkeypatch.setattr(latency.time, "perf_counter", lambda: 3 * self.now)
        self.calls = []

    def worker(self, name, seconds):
        def work():
            self.calls.append(name)
            self.now += seconds * (1 + self.now)

        return work


def test_ratios_are_taken_within_a_round(monkeypatch):
    clock = Clock(monkeypatch)
    work = {"float": clock.worker("float", 4e-3), "half": clock.worker("half", 2e-3)}
    found = compare(work, "float", rounds=7, calls=3)
    assert found["float"].ratio == 1.0
    assert found["half"].ratio == pytest.approx(0.5, rel=0.02)
    assert found["half"].wall_ms == pytest.approx(3 * found["half"].cpu_ms)
    low, high = found["half"].spread
    assert low <= found["half"].ratio <= high


def test_the_order_is_reversed_every_other_round(monkeypatch):
    clock = Clock(monkeypatch)
    work = {name: clock.worker(name, 2e-3) for name in "rabcd"}
    compare(work, "r", rounds=3, calls=1)
    assert "".join(clock.calls)[-27:] == "rarbrcrdr" + "rdrcrbrar" + "rarbrcrdr"


def test_short_calls_are_repeated_up_to_the_shortest_slice(monkeypatch):
    clock = Clock(monkeypatch)
    compare({"a": clock.worker("a", 1e-5)}, "a", rounds=3, calls=1)
    assert len(clock.calls) > 3 * 5 * 190
