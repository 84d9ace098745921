"""Draining nodes: the notice is a wish to stop, and the end that follows is not a failure."""

import time
from types import SimpleNamespace

import pytest
from ray.train import PreemptionInfo
from ray.train.v2._internal.execution import context as ray_train
from ray.train.v2._internal.execution.preemption import PreemptionContext

from orchestrator.cluster import trainer, worker
from orchestrator.cluster.drains import DrainedError, drain_notice
from orchestrator.cluster.observe.mailbox import Failure, Mailbox, RayLine
from orchestrator.config import StrictModel
from tests.support.state import AnyState


class Ended(StrictModel):
    """Result of a worker function."""

    stopped: bool


@pytest.fixture
def told():
    """Give this process what Ray Train gives its workers; a node of the group is draining."""
    info = PreemptionInfo(
        deadline_ms=int(time.time() * 1000) + 30_500, preempted_node_to_ranks={"ab12": [1, 3]}
    )
    ray_train.set_train_context(SimpleNamespace(preemption_context=PreemptionContext(info)))
    yield
    ray_train.set_train_context(None)


def test_the_notice_names_nodes_ranks_and_time(told):
    message = drain_notice().message
    assert "node ab12 of ranks [1, 3] will be taken away in 30 s" in message


def test_there_is_no_notice_outside_ray_train_or_before_a_drain():
    assert drain_notice() is None
    ray_train.set_train_context(SimpleNamespace(preemption_context=PreemptionContext()))
    assert drain_notice() is None
    ray_train.set_train_context(None)


def asked(line):
    """Return what rank 0 hears after a step and, the answer being there, after the next one."""
    line.stop_requested()
    return line.stop_requested()


@pytest.fixture
def quick(monkeypatch):
    """Answers of actors are there at once."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(ray, "wait", lambda answers, timeout: (answers, []))


def test_the_notice_is_a_wish_to_stop(told, quick):
    assert asked(RayLine(Actor()))


def test_a_group_trains_on_until_processes_are_ready_elsewhere(told, quick):
    actor = Actor()
    actor.box.hold(place_is_ready=False)
    assert not asked(RayLine(actor))
    actor.box.hold(place_is_ready=True)
    assert asked(RayLine(actor))
    actor.box.hold(place_is_ready=False)
    actor.box.request_stop()
    assert asked(RayLine(actor))


def test_a_group_stays_for_half_of_the_notice_at_most(told, quick, monkeypatch):
    actor = Actor()
    actor.box.hold(place_is_ready=False)
    line, now = RayLine(actor), time.time()
    assert not asked(line)
    monkeypatch.setattr(time, "time", lambda: now + 15)
    assert not line.stop_requested()
    monkeypatch.setattr(time, "time", lambda: now + 15.5)
    assert line.stop_requested()


def test_a_group_leaves_at_once_where_nobody_says_how_long_the_node_stays(quick):
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"ab12": [0]})
    ray_train.set_train_context(SimpleNamespace(preemption_context=PreemptionContext(info)))
    assert RayLine(actor=None).stop_requested()
    ray_train.set_train_context(None)


class Actor:
    """A mailbox whose calls are answered at once."""

    def __init__(self):
        self.box = Mailbox()

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.box, name))


def stop(context, payload):
    """A worker function that ends early, or not."""
    return Ended(stopped=payload.stopped)


def loop(tmp_path, monkeypatch, actor, *, stopped):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(worker, "living_nodes", lambda: ["here"])
    monkeypatch.setattr(worker, "prepare_process", lambda **_: None)
    assignment = worker.Assignment(
        worker=f"{__name__}:stop",
        payload_class=f"{AnyState.__module__}:AnyState",
        payload=AnyState(stopped=stopped).model_dump_json(),
        run_dir=tmp_path,
        mailbox=actor,
        threads=1,
        accelerated=False,
    )
    return worker.train_loop({"assignment": assignment})


@pytest.mark.usefixtures("process_group")
class TestTheEndOfAnAttempt:
    def test_stopped_by_a_drain_it_is_followed_by_another_and_counts_as_none(
        self, tmp_path, monkeypatch, told
    ):
        actor = Actor()
        for _ in range(3):  # however many nodes are taken away
            with pytest.raises(DrainedError):
                loop(tmp_path, monkeypatch, actor, stopped=True)
            assert actor.box.group_failed(["here"]) == (0, 0)
        assert actor.box.begin(["here"]) is None

    def test_a_finished_run_is_not_begun_again(self, tmp_path, monkeypatch, told):
        ended = loop(tmp_path, monkeypatch, Actor(), stopped=False)
        assert Ended.model_validate_json(ended.result) == Ended(stopped=False)

    def test_who_asked_to_stop_is_obeyed(self, tmp_path, monkeypatch, told):
        actor = Actor()
        actor.box.request_stop()
        ended = loop(tmp_path, monkeypatch, actor, stopped=True)
        assert Ended.model_validate_json(ended.result) == Ended(stopped=True)


def test_a_crash_after_a_drained_group_counts():
    box = Mailbox()
    box.begin(["a"])
    assert box.leave()
    box.group_failed(["a"])
    box.begin(["a"])
    box.fail(Failure(error="ValueError", message="", traceback=""), final=False)
    assert box.group_failed(["a"]) == (1, 0)


def test_an_elastic_group_is_not_planned_on_a_draining_node(monkeypatch):
    class Policy:
        """Ray's, as far as it matters here."""

        _requester_id = _autoscaling_coordinator = None

        def _get_reserved_resources(self):
            return {"stays": {"CPU": 1}, "goes": {"CPU": 1}}

    monkeypatch.setattr(trainer, "draining_nodes", lambda: frozenset({"goes"}))
    assert trainer._followed(Policy)()._get_reserved_resources() == {"stays": {"CPU": 1}}
