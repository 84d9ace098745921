"""A phase without progress is noticed, whichever it is; a slow one that moves on is not."""

import threading
import time

import pytest

from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.loop import Hooks, train
from orchestrator.training.watchdog import (
    BETWEEN,
    BUILDING,
    CHECKPOINT,
    EVALUATION,
    FACTOR,
    FIRST_S,
    STEP,
    STORING,
    Watchdog,
    beat,
    beating,
    unwatched,
)
from tests.unit.training.toy_model import ToyModel, ToySource


class Seen(list):
    """Reports of a watchdog."""

    def __init__(self):
        super().__init__()
        self.noticed = threading.Event()

    def __call__(self, phase, seconds):
        self.append((phase, seconds))
        self.noticed.set()


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def watch(seen):
    """Make watchdogs, and close them."""
    made = []

    def make(floor_s, **more):
        made.append(Watchdog(seen, floor_s, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("phase", [STEP, BETWEEN, EVALUATION, CHECKPOINT])
def test_a_phase_that_never_ends_is_noticed_once(phase, watch, seen):
    dog = watch(0.1)
    with dog.phase(phase):
        pass
    with dog.phase(phase):
        assert seen.noticed.wait(10)
        time.sleep(0.3)
    assert len(seen) == 1
    assert seen[0][0] == phase
    assert seen[0][1] > 0.1


def test_outside_of_phases_nothing_is_watched(watch, seen):
    dog = watch(0.1, first_s=0.1)
    with dog.phase(STEP):
        pass
    time.sleep(0.3)
    with dog.phase(STORING), unwatched():
        time.sleep(0.3)
    assert seen == []


def test_a_phase_within_another_takes_its_place(watch, seen):
    """Training goes on to a checkpoint, and back: each has its own limit and its own clock."""
    dog = watch(0.2, first_s=60)
    with dog.phase(BETWEEN):
        pass
    with dog.phase(BETWEEN):
        with dog.phase(CHECKPOINT):
            time.sleep(0.5)  # its first time, more than the others may take
        assert seen == []
        assert seen.noticed.wait(10)
    assert seen[0][0] == BETWEEN


def test_slow_steps_raise_the_limit(watch, seen):
    dog = watch(0.05)
    with dog.phase(STEP):
        time.sleep(0.03)
    assert dog.limit_s(STEP) >= FACTOR * 0.03
    with dog.phase(STEP):
        time.sleep(0.2)
    assert seen == []


def test_the_longest_part_of_a_checkpoint_says_what_is_usual(watch):
    """A state is copied, then ranks meet every second: the median would not know of the copy."""
    dog = watch(0.01)
    with dog.phase(CHECKPOINT):
        time.sleep(0.05)
        for _ in range(9):
            dog.beat()
    assert dog.limit_s(CHECKPOINT) >= FACTOR * 0.05


def test_a_failed_step_is_not_watched_any_longer_and_not_remembered(watch, seen):
    dog = watch(0.1)
    try:
        with dog.phase(STEP):
            raise ValueError
    except ValueError:
        pass
    time.sleep(0.3)
    assert seen == []
    assert dog.limit_s(STEP) == FIRST_S


def test_the_first_time_may_take_longer_because_it_compiles_and_connects(watch, seen):
    dog = watch(0.05)
    assert dog.limit_s(STEP) == FIRST_S
    with dog.phase(STEP):
        time.sleep(0.3)
    assert seen == []
    assert 0.3 * FACTOR <= dog.limit_s(STEP) < FIRST_S
    with dog.phase(BUILDING):
        pass
    assert dog.limit_s(BUILDING) == FIRST_S  # nobody knows what the next one has to read


def test_beats_do_not_end_the_time_that_the_first_evaluation_has(watch):
    """It beats before its first batch, whose pass compiles."""
    dog = watch(0.05)
    with dog.phase(EVALUATION):
        beat()
        assert dog.limit_s(EVALUATION) == FIRST_S
    assert dog.limit_s(EVALUATION) < FIRST_S


def test_progress_restarts_the_clock(watch, seen):
    dog = watch(0.6, first_s=0.6)
    with dog.phase(BUILDING):
        for _ in beating(range(8)):
            time.sleep(0.1)
        assert seen == []
        assert seen.noticed.wait(10)
    assert seen[0][1] > 0.6
    dog.close()
    beat()  # nobody listens


def test_the_loop_says_what_it_does(watch):
    """Every hook runs in a phase, and an evaluation beats with its batches."""
    dog, at = watch(60), {}

    def note(name, result=None):
        def hook(*_):
            at.setdefault(name, set()).add(dog._now[0])
            return result

        return hook

    def evaluate():
        note("evaluate")()
        before = len(dog._took[EVALUATION])
        batches = [batch for step in range(3) for batch in ToySource().window(step, 0, 1)]
        found = engine.evaluate(batches)
        assert len(dog._took[EVALUATION]) >= before + 3
        return found

    engine = SingleEngine(ToyModel(), OptimizerConfig())
    sizes = {"global_batch_size": 8, "micro_batch_size": 8, "log_every_steps": 1}
    config = TrainConfig(max_steps=4, eval_every_steps=2, checkpoint_every_steps=2, **sizes)
    hooks = {
        "observer": note("observer"),
        "hand_off": note("hand_off", False),
        "save": note("save"),
        "should_stop": note("should_stop", False),
        "judge": note("judge", False),
    }

    class Source(ToySource):
        def window(self, step, rank, world):
            note("window")()
            return super().window(step, rank, world)

    train(engine, Source(), config, hooks=Hooks(**hooks, evaluate=evaluate, watchdog=dog))
    assert at == {
        "window": {STEP},
        "observer": {BETWEEN},
        "should_stop": {BETWEEN},
        "evaluate": {EVALUATION},
        "hand_off": {STORING},
        "judge": {STORING},
        "save": {CHECKPOINT},
    }
    assert dog._now is None
