"""Two groups on one folder: the older one is shut out, and the driver is not told."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from orchestrator.cluster import worker
from orchestrator.cluster.checkpoints import store as checkpoints
from orchestrator.cluster.context import Worker
from orchestrator.storage import commit_folder
from orchestrator.storage.claims import Claim, FencedError
from orchestrator.storage.stores import open_store
from tests.support.state import AnyState
from tests.unit.cluster.checkpoints.test_store import StubEngine


def group(folder):
    return Worker.alone(folder).claimed()


@pytest.fixture
def old(tmp_path):
    """A group that has written two checkpoints."""
    first = group(tmp_path)
    for step in (10, 20):
        first.commit_checkpoint(step, StubEngine(f"old {step}"), AnyState())
    return first


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_group_that_was_replaced_changes_nothing(old, tmp_path):
    new = group(tmp_path)
    assert new.latest_checkpoint().step == 20
    for step in (25, 30):
        new.commit_checkpoint(step, StubEngine(f"new {step}"), AnyState())
    being_written = tmp_path / "checkpoints" / "step-00000035.tmp-new"
    being_written.mkdir()
    before = contents(tmp_path)
    for step in (24, 30, 40):  # would be removed, would replace, would be the newest
        with pytest.raises(FencedError, match=r"group 1 was replaced by group 2 \(process \d+ on"):
            old.commit_checkpoint(step, StubEngine(f"old {step}"), AnyState())
    with pytest.raises(FencedError):
        old.latest_checkpoint()  # sweeps rests
    with pytest.raises(FencedError):
        old.within(tmp_path / "best").commit_checkpoint(40, StubEngine("old best"), AnyState())
    assert contents(tmp_path) == before
    assert being_written.is_dir()
    assert new.latest_checkpoint().step == 30


def test_a_group_that_is_replaced_right_after_its_commit_removes_nothing(
    old, tmp_path, monkeypatch
):
    def overtaken(*arguments):
        commit_folder(*arguments)
        group(tmp_path)

    monkeypatch.setattr(checkpoints, "commit_folder", overtaken)
    with pytest.raises(FencedError):
        old.commit_checkpoint(30, StubEngine("old 30"), AnyState())
    assert old.checkpoints.steps() == [10, 20, 30]


def test_among_many_that_claim_at_once_one_stays(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(Claim.take, [open_store(tmp_path)] * 16))
    assert len({claim.number for claim in claims}) == len(claims)
    last = max(claims, key=lambda claim: claim.number)
    last.require()
    for claim in claims:
        if claim is not last:
            with pytest.raises(FencedError):
                claim.require()


class Actor:
    """A mailbox that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *_args, **_options: self.asked.append(name))


def overtaken(ctx, payload):
    """A worker function whose group is replaced."""
    ctx = ctx.claimed()
    group(ctx.run_dir)
    ctx.commit_checkpoint(1, StubEngine("late"), AnyState())


@pytest.mark.usefixtures("process_group")
def test_the_launch_does_not_hear_of_it(tmp_path, monkeypatch):
    """It would end: an error of this system counts as one that cannot go away."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(worker, "living_nodes", lambda: ["here"])
    monkeypatch.setattr(worker, "prepare_process", lambda **_: None)
    actor = Actor()
    assignment = worker.Assignment(
        worker=f"{__name__}:overtaken",
        payload_class=f"{AnyState.__module__}:AnyState",
        payload="{}",
        run_dir=tmp_path,
        mailbox=actor,
        threads=1,
        accelerated=False,
    )
    with pytest.raises(FencedError):
        worker.train_loop({"assignment": assignment})
    assert actor.asked == ["begin", "joined", "post"]
