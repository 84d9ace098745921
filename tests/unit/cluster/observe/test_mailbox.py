"""Events, the wish to stop, and which failures are worth another attempt."""

import pytest

from orchestrator.cluster.observe.mailbox import (
    Failure,
    Mailbox,
    SilentLine,
    describe_error,
    rebuild_error,
)
from orchestrator.errors import (
    ConfigError,
    InputError,
    IntegrityError,
    InterruptedRunError,
    Problem,
    StageError,
)
from orchestrator.training.events import GroupStarted

CRASH = Failure(error="ValueError", message="first", traceback="")
HERE, LEFT = ["a", "b"], ["a"]
OTHER = Failure(error="ValueError", message="second", traceback="")


def test_events_are_taken_once_and_in_order():
    box = Mailbox()
    one, two, three = (GroupStarted(world=n) for n in (1, 2, 3))
    box.post([one])
    box.post([two, three])
    assert [event.world for event in box.take()] == [1, 2, 3]
    assert box.take() == []


def test_a_first_attempt_goes_ahead():
    assert Mailbox().begin(HERE) is None


def test_an_error_that_cannot_go_away_ends_the_launch():
    box = Mailbox()
    box.begin(HERE)
    box.fail(CRASH, final=True)
    assert box.is_final()
    assert box.begin(HERE) == CRASH
    assert box.failure() == CRASH


def test_a_crash_gets_a_second_attempt_but_not_a_third_without_progress():
    box = Mailbox()
    box.begin(HERE)
    box.fail(CRASH, final=False)
    assert box.failure() is None
    assert box.begin(HERE) is None
    box.fail(OTHER, final=False)
    assert box.begin(HERE) == CRASH  # the first one: what follows is often its consequence
    assert box.failure() == CRASH


def test_crashes_with_progress_in_between_may_go_on():
    box = Mailbox()
    box.begin(HERE)
    for step in (10, 20, 30):
        box.progressed("run", step)
        box.fail(CRASH, final=False)
        assert box.begin(HERE) is None


def test_a_later_run_of_the_launch_makes_progress_of_its_own():
    box = Mailbox()
    box.begin(HERE)
    box.progressed("first", 1000)
    for step in (10, 20, 30):
        box.progressed("second", step)
        box.fail(CRASH, final=False)
        assert box.begin(HERE) is None


def crash(box, nodes, failure=CRASH):
    """Let a worker group begin and crash."""
    given_up = box.begin(HERE)
    for node in nodes:
        box.joined(node)
    box.fail(failure, final=False)
    return given_up


def test_hosts_lost_without_progress_do_not_end_the_launch():
    box = Mailbox()
    for lost in ("x", "y", "z"):  # nobody of them is among the living when the next group begins
        assert crash(box, ["a", lost]) is None
    assert box.begin(HERE) is None


def test_a_host_whose_loss_is_known_late_is_no_crash_either():
    box = Mailbox()
    crash(box, ["a", "b"])
    assert crash(box, ["a"], OTHER) is None  # "b" still seems to live
    assert box.begin(LEFT) is None
    box.fail(OTHER, final=False)
    assert box.begin(LEFT) == OTHER


def test_failures_are_counted_from_the_last_checkpoint_and_losses_apart():
    box = Mailbox()
    crash(box, ["a", "b"])
    assert box.group_failed(HERE) == (1, 0)
    crash(box, ["a"])
    assert box.group_failed(HERE) == (2, 0)
    assert box.group_failed(LEFT) == (2, 1)  # nobody of the third joined anew
    box.progressed("run", 10)
    assert box.group_failed(HERE) == (1, 0)
    box.progressed("run", 10)  # the same checkpoint again
    assert box.group_failed(HERE) == (2, 0)


def test_a_lost_process_leaves_no_reason_and_is_tried_again():
    box = Mailbox()
    for _ in range(5):
        assert box.begin(HERE) is None


def test_the_first_failure_of_an_attempt_is_kept():
    box = Mailbox()
    box.begin(HERE)
    box.fail(CRASH, final=False)
    box.fail(OTHER, final=False)  # the survivors lose their connection
    box.begin(HERE)
    box.fail(OTHER, final=False)
    assert box.begin(HERE) == CRASH


def test_stop_is_remembered():
    box = Mailbox()
    assert not box.stop_requested()
    box.request_stop()
    assert box.stop_requested()


def test_nobody_listens_on_a_silent_line():
    line = SilentLine()
    line.post(GroupStarted(world=1))
    line.progressed("run", 3)
    assert not line.stop_requested()


def _crossed(failure):
    return Failure.model_validate_json(failure.model_dump_json())


@pytest.mark.parametrize("kind", [StageError, InputError, InterruptedRunError, IntegrityError])
def test_our_errors_keep_class_and_message(kind):
    data = _crossed(describe_error(kind("what happened")))
    again = rebuild_error(data, "run")
    assert type(again) is kind
    assert str(again) == "what happened"


def test_config_errors_keep_their_problems():
    error = ConfigError("job.yaml", [Problem("a.b", "is wrong"), Problem("", "and more")])
    again = rebuild_error(_crossed(describe_error(error)), "run")
    assert isinstance(again, ConfigError)
    assert again.problems == error.problems
    assert str(again) == str(error)


def test_other_errors_say_what_and_where():
    def inner():
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ZeroDivisionError) as caught:
        inner()
    again = rebuild_error(describe_error(caught.value), "my-run")
    assert type(again) is StageError
    assert "my-run: a worker failed with ZeroDivisionError: by nothing" in str(again)
    assert "in inner" in str(again)


def test_a_name_from_outside_is_never_called():
    failure = Failure(error="Sequence", message="m", traceback="")
    assert type(rebuild_error(failure, "run")) is StageError
