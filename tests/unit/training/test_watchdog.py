"""A hung step is noticed; a slow one and what happens between steps are not."""

import threading
import time

from orchestrator.training.worker_context import FACTOR, FIRST_STEP_S, Watchdog


def test_a_step_that_never_ends_is_noticed_once():
    called, noticed = [], threading.Event()

    def on_hang(seconds):
        called.append(seconds)
        noticed.set()

    dog = Watchdog(on_hang, 0.1)
    with dog.step():
        pass
    with dog.step():
        assert noticed.wait(10)
        time.sleep(0.3)
    assert len(called) == 1
    assert called[0] > 0.1


def test_time_between_steps_is_not_watched():
    called = []
    dog = Watchdog(called.append, 0.1)
    with dog.step():
        pass
    time.sleep(0.4)
    dog.close()
    assert called == []


def test_slow_steps_raise_the_limit():
    called = []
    dog = Watchdog(called.append, 0.05)
    with dog.step():
        time.sleep(0.03)
    assert dog.limit_s >= FACTOR * 0.03
    with dog.step():
        time.sleep(0.2)
    dog.close()
    assert called == []


def test_a_failed_step_is_not_watched_any_longer_and_not_remembered():
    called = []
    dog = Watchdog(called.append, 0.1)
    try:
        with dog.step():
            raise ValueError
    except ValueError:
        pass
    time.sleep(0.3)
    dog.close()
    assert called == []
    assert dog.limit_s == FIRST_STEP_S


def test_the_first_step_may_take_longer_because_it_compiles_and_connects():
    called, noticed = [], threading.Event()
    dog = Watchdog(called.append, 0.05)
    assert dog.limit_s == FIRST_STEP_S
    with dog.step():
        time.sleep(0.3)
    dog.close()
    assert called == []
    assert 0.3 * FACTOR <= dog.limit_s < FIRST_STEP_S
    dog = Watchdog(lambda _: noticed.set(), 0.05, first_s=0.1)
    with dog.step():
        assert noticed.wait(10)
    dog.close()
