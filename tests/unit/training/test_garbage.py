"""The garbage collector runs between steps, at the same steps on every rank, and nowhere else."""

import gc
import weakref

import pytest

from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.garbage import EVERY_STEPS, YOUNG, collected_between_steps
from orchestrator.training.loop import Hooks, train
from tests.unit.training.toy_model import ToyModel, ToySource


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def collections():
    """Return the generation of every collection."""
    seen = []

    def note(phase, info):
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


def run(first, last, hooks=Hooks()):  # noqa: B008
    sizes = {"global_batch_size": 8, "micro_batch_size": 8}
    config = TrainConfig(max_steps=last, **sizes, log_every_steps=1)
    engine = SingleEngine(ToyModel(), OptimizerConfig())
    return train(engine, ToySource(), config, first_step=first, hooks=hooks)


def test_steps_collect_at_multiples_of_the_interval_and_nowhere_else(collections):
    """Counted from step 0 of the run: a rank that was started again does not differ."""
    at, alive = [], []

    def look(event):
        assert not gc.isenabled()
        at.append((event.step, len(collections)))
        cycle = Cycle()
        alive.append(weakref.ref(cycle))
        _ = [[] for _ in range(5000)]  # enough to start the collector

    first = EVERY_STEPS - 3
    run(first, EVERY_STEPS + 3, Hooks(observer=look))
    counts = dict(at)
    before = counts[EVERY_STEPS]
    assert {n for step, n in at if step <= EVERY_STEPS} == {before}
    assert {n for step, n in at if step > EVERY_STEPS} == {before + 1}
    assert collections[before] == YOUNG
    found = [each() is None for each in alive]
    assert found[:3] == [True] * 3  # those of the steps before the collection
    assert gc.isenabled()


def fail_within():
    with collected_between_steps():
        assert gc.get_freeze_count() > 0
        assert not gc.isenabled()
        raise KeyError


@pytest.mark.parametrize("enabled", [True, False])
def test_afterwards_the_collector_is_as_it_was(enabled):
    if not enabled:
        gc.disable()
    try:
        with pytest.raises(KeyError):
            fail_within()
        assert gc.isenabled() is enabled
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_model_in_a_cycle_is_freed_after_its_run():
    """A worker that trains several models in turn holds only one of them in memory."""
    cycle = Cycle()
    gone = weakref.ref(cycle)
    with collected_between_steps():
        del cycle
        gc.collect()
        assert gone() is not None  # what existed before is not looked at
    gc.collect()
    assert gone() is None
