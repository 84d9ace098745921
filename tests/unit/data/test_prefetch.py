"""Batches made ahead are those that would have been made in time, and errors arrive."""

import threading
import time

import numpy as np
import pytest
import torch

from orchestrator.data import prefetch
from orchestrator.data.prefetch import Ahead, IndexedPrefetch, Prefetch
from orchestrator.data.steps import StepSource
from orchestrator.pretraining.window_sources import Detour

DEADLINE_SECONDS = 20


class Numbers:
    """Samples that are their own index and epoch; remembers which thread made them."""

    parts = (23,)

    def __init__(self, broken=()):
        self.threads, self.broken, self.made = set(), set(broken), 0

    def __len__(self):
        return 23

    def collate(self, indices, epoch):
        self.threads.add(threading.current_thread().name)
        self.made += 1
        if self.broken & set(indices.tolist()):
            raise ValueError(f"broken sample in {indices.tolist()}")
        epochs = np.broadcast_to(epoch, indices.shape)
        return {"x": torch.from_numpy(np.stack([indices, epochs]))}


def source(depth, **options):
    samples = Numbers(**options)
    return samples, IndexedPrefetch(StepSource(samples, 8, 4, 1), depth)


def read(windows, steps, rank=0, world=1):
    return [[b["x"].tolist() for b in windows.window(step, rank, world)] for step in steps]


def running():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("depth", [1, 3])
def test_the_same_batches_whatever_is_made_ahead(depth):
    samples, ahead = source(depth)
    plain = StepSource(Numbers(), 8, 4, 1)
    order = [0, 1, 2, 3, 9, 10, 4, 4, 5, 30]  # on, away, back, again, on, away
    assert read(ahead, order) == read(plain, order)
    assert read(ahead, [31, 32], 1, 2) == read(plain, [31, 32], 1, 2)
    assert ahead.indices(7)[0].tolist() == plain.indices(7)[0].tolist()
    assert ahead.epoch(9) == plain.epoch(9)
    assert samples.threads == {"prefetch"}
    ahead.close()
    assert not running()


def test_as_many_steps_are_made_ahead_as_asked_for():
    samples, ahead = source(2)
    ahead.window(0, 0, 1)
    end = time.monotonic() + DEADLINE_SECONDS
    while samples.made < 6:  # two micro-batches of steps 0, 1 and 2
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)
    assert samples.made == 6
    ahead.close()


def test_an_error_is_raised_for_its_step_and_the_next_one_can_be_asked_for():
    probe = StepSource(Numbers(), 8, 4, 1)
    other = set(probe.indices(0)[0].tolist()) | set(probe.indices(1)[0].tolist())
    wrong = next(i for i in probe.indices(2)[0].tolist() if i not in other)
    samples, ahead = source(2, broken=[wrong])
    assert read(ahead, [0, 1]) == read(probe, [0, 1])
    for _ in range(2):
        with pytest.raises(ValueError, match="broken sample"):
            ahead.window(2, 0, 1)
    samples.broken.clear()
    assert read(ahead, [2, 3]) == read(probe, [2, 3])
    ahead.close()
    ahead.close()
    assert not running()


def test_a_detour_reads_other_steps():
    _, ahead = source(2)
    around, plain = Detour(ahead), Detour(StepSource(Numbers(), 8, 4, 1))
    first = [around.window(step, 0, 1) for step in range(3)]
    assert len(first) == 3
    for each in (around, plain):
        each.around(1, 2)
    assert read(around, [1, 2, 3]) == read(plain, [1, 2, 3])
    assert around.samples(2) == plain.samples(2)
    ahead.close()


def test_closing_does_not_wait_for_ever_for_a_source_that_hangs(monkeypatch, caplog):
    monkeypatch.setattr(prefetch, "STOP_S", 0.05)
    begun, goes_on = threading.Event(), threading.Event()

    class Hanging:
        def window(self, step, rank, world):
            if step:
                begun.set()
                goes_on.wait(DEADLINE_SECONDS)
            return []

    ahead = Prefetch(Hanging(), 1)
    ahead.window(0, 0, 1)
    assert begun.wait(DEADLINE_SECONDS)
    (thread,) = running()
    ahead.close()
    assert thread.is_alive()
    assert "event=prefetch_left" in caplog.text
    goes_on.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def test_items_are_made_ahead_in_order_and_an_error_comes_at_its_place():
    made = []

    def items():
        for number in range(5):
            made.append((number, threading.current_thread().name))
            yield number
        raise ValueError("broken")

    with Ahead(items(), 2) as ahead:
        assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="broken"):
            next(ahead)
        assert list(ahead) == []
    assert made == [(number, "prefetch") for number in range(5)]
    assert not running()


def test_items_that_end_end_and_a_reader_that_leaves_stops_the_thread():
    assert list(Ahead(iter(range(7)))) == list(range(7))
    with Ahead(iter(range(1000))) as ahead:
        assert next(ahead) == 0
    assert list(ahead) == []
    assert not running()
