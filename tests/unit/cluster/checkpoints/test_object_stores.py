"""Rows 9 to 12 of the fault table for checkpoints on a real S3 server."""

import os
import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from orchestrator.cluster.checkpoints import saving
from orchestrator.cluster.context import Worker
from orchestrator.errors import IntegrityError, StageError
from orchestrator.storage.claims import FencedError
from orchestrator.storage.remote import mirror, patience
from orchestrator.storage.remote.remote_store import RemoteStore
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.events import CheckpointDamaged, NoSpace, StoreSlow
from tests.support.ranks import on_ranks
from tests.support.s3 import Relay, settings
from tests.support.state import AnyState
from tests.support.toy import toy_model, toy_window
from tests.unit.cluster.checkpoints.test_hostile_storage import Notes, elsewhere, mount

TOLD_WITHIN_S = 5.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(patience, "PAUSES_S", (0.05,))


@pytest.fixture
def root(s3_port):
    with settings(s3_port) as bucket:
        yield f"{bucket}/{uuid.uuid4().hex}/r"


@pytest.fixture
def relayed(s3_port):
    relay = Relay(s3_port)
    with settings(relay.port) as bucket:
        yield relay, f"{bucket}/{uuid.uuid4().hex}/r"
    relay.close()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a worker on a machine with an empty staging folder, and its notes."""

    def go(root, lease):
        cache = tmp_path / f"machine-{uuid.uuid4().hex}"
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
        return Worker(0, 1, tmp_path, line=Notes()).within(root).claimed(lease)

    return go


def built(ctx):
    return ctx.build_engine(toy_model(), OptimizerConfig(eps=1e-6), EngineConfig())


def trained(ctx, engine, first, last):
    losses = []
    for step in range(first, last):
        losses.append(engine.forward_backward(toy_window(step, 0, ctx.world))["loss"])
        engine.set_lr(1e-3)
        engine.step()
        ctx.begin_checkpoint(step + 1, engine, AnyState(losses=losses))
    ctx.settle_checkpoint()
    return engine


def same(one, other):
    left, right = one.gathered(), other.gathered()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_another_machine_goes_on_and_the_first_one_changes_nothing_more(root, machine):
    old = machine(root, 1)
    engine = trained(old, built(old), 0, 4)
    assert old.checkpoints.steps() == [3, 4]
    new = machine(root, 2)
    found = new.latest_checkpoint()
    assert found.step == 4
    assert str(found.path).startswith(str(new.run_dir))
    again = built(new)
    again.load(found.path)
    assert same(engine, again)
    before = RemoteStore(root).sizes("")
    with pytest.raises(FencedError, match="was replaced by group 2000001"):
        old.latest_checkpoint()  # sweeps
    assert RemoteStore(root).sizes("") == before
    with pytest.raises(FencedError):
        old.commit_checkpoint(9, engine, AnyState())
    trained(new, again, 4, 6)
    assert new.checkpoints.steps() == [5, 6]
    machine(root, 3).latest_checkpoint()
    names = RemoteStore(root).folders("checkpoints")
    assert names == ["step-00000005-02000001", "step-00000006-02000001"]  # step 9 was swept


def two_hosts(root, cache, steps):
    """Train on two ranks, each with a staging folder of its own."""

    def work(ctx):
        os.environ["ORCHESTRATOR_CACHE"] = f"{cache}-{ctx.rank}"
        patience.PAUSES_S = (0.05,)
        ctx = ctx.within(root).claimed(1)
        engine = ctx.build_engine(toy_model(), OptimizerConfig(), EngineConfig())
        found = ctx.latest_checkpoint()
        first = 0 if found is None else found.step
        if found is not None:
            engine.load(found.path)
        fetched = sorted(p.name for p in ctx.run_dir.rglob("training-*"))
        trained(ctx, engine, first, steps)
        kept = sorted(p.name for p in ctx.run_dir.rglob("training-*"))
        total = sum(float(value.double().abs().sum()) for value in engine.gathered().values())
        return {"first": first, "fetched": fetched, "kept": kept, "total": total}

    return work


@pytest.mark.slow
def test_hosts_share_nothing_but_the_store(root, tmp_path):
    whole = on_ranks(2, two_hosts(f"{root}-whole", tmp_path / "quiet", 4), tmp_path / "a")
    begun = on_ranks(2, two_hosts(root, tmp_path / "one", 2), tmp_path / "b")
    own = [[f"training-{rank:05d}.safetensors"] for rank in range(2)]
    assert [each["kept"] for each in begun] == own
    ended = on_ranks(2, two_hosts(root, tmp_path / "two", 4), tmp_path / "c")
    assert [each["first"] for each in ended] == [2, 2]
    assert [each["total"] for each in ended] == [each["total"] for each in whole]
    for rank, each in enumerate(ended):
        assert own[rank][0] in each["fetched"]
    one = Worker.alone(tmp_path).within(root).claimed(2)
    engine = built(one)
    engine.load(one.latest_checkpoint().path)  # other numbers of workers read it, too
    total = sum(float(value.double().abs().sum()) for value in engine.gathered().values())
    assert total == pytest.approx(ended[0]["total"])


FILES = ["training.safetensors", "training.json", "extra.json", "manifest.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_damage_anywhere_is_found_and_the_one_before_is_used(root, machine, name):
    ctx = machine(root, 1)
    trained(ctx, built(ctx), 0, 2)
    store, path = RemoteStore(root), f"checkpoints/step-00000002-01000001/{name}"
    data = store.read(path, 2**30)
    draw = random.Random(1)
    damaged = []
    for bit in draw.sample(range(len(data) * 8), 4):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    damaged += [data[:length] for length in (0, 1, 8, len(data) // 2, len(data) - 2)]
    for lease, content in enumerate(damaged, start=2):
        store.write(path, content)
        later = machine(root, lease)
        assert later.latest_checkpoint().step == 1
        (event,) = later.line.events
        assert isinstance(event, CheckpointDamaged)
        assert "step-00000002-01000001" in event.message
    store.remove(path)
    later = machine(root, 90)
    assert later.latest_checkpoint().step == 1  # without its manifest it is the rest of a writer
    store.write(path, data)
    if name != "manifest.json":
        assert machine(root, 91).latest_checkpoint().step == 2


def test_all_damaged_is_told_and_nothing_removed(root, machine):
    ctx = machine(root, 1)
    trained(ctx, built(ctx), 0, 2)
    store = RemoteStore(root)
    for name in store.folders("checkpoints"):
        store.write(f"checkpoints/{name}/training.safetensors", b"x")
    before = set(store.sizes("checkpoints"))
    with pytest.raises(IntegrityError, match=rf"{root}/checkpoints: no checkpoint is whole"):
        machine(root, 2).latest_checkpoint()
    assert set(store.sizes("checkpoints")) == before


def test_a_store_that_is_full_or_refuses_names_what_was_not_uploaded(relayed, machine, monkeypatch):
    relay, root = relayed
    monkeypatch.setattr(mirror, "PATIENCE_S", 0.3)
    ctx = machine(root, 1)
    engine = trained(ctx, built(ctx), 0, 2)
    full, refused = (507, "InsufficientStorage"), (403, "AccessDenied")
    for fault, named in ((full, "Insufficient"), (refused, "")):
        relay.set(fault)
        began = time.monotonic()
        with pytest.raises(StageError) as caught:
            ctx.commit_checkpoint(3, engine, AnyState())
        if not named:  # row 10: what was refused is not waited for
            assert time.monotonic() - began < TOLD_WITHIN_S
        text = str(caught.value)
        assert "the checkpoint of step 3 could not be written to" in text
        assert f"{root}/checkpoints/step-00000003-01000001/training.safetensors" in text
        assert "Earlier checkpoints are intact" in text
        assert (named or "PermissionError") in text
        relay.set(None)
    ctx = machine(root, 2)
    assert ctx.latest_checkpoint().step == 2
    ctx.commit_checkpoint(3, engine, AnyState())
    assert ctx.checkpoints.steps() == [2, 3]


@pytest.mark.slow
def test_training_waits_for_a_lost_connection_and_says_so(relayed, machine):
    relay, root = relayed
    ctx = machine(root, 1)
    engine = built(ctx)
    relay.set((500, "InternalError"))
    with ThreadPoolExecutor(1) as pool:
        saved = pool.submit(ctx.commit_checkpoint, 1, engine, AnyState())
        deadline = time.monotonic() + 60
        while not ctx.line.events and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not saved.done()
        relay.set(None)
        saved.result(60)
    assert isinstance(ctx.line.events[0], StoreSlow)
    assert "Trying again" in ctx.line.events[0].message
    assert ctx.checkpoints.steps() == [1]


def full(folder, tell):
    assert mount("-t", "tmpfs", "-o", "size=256k", "none", str(folder)) == 0
    os.environ["ORCHESTRATOR_CACHE"] = str(folder)
    ctx = Worker(0, 1, folder, line=Notes()).within(os.environ["ROOT"]).claimed(1)
    engine = trained(ctx, built(ctx), 0, 1)
    status = os.statvfs(folder)
    filler = folder / "filler"
    filler.write_bytes(b"x" * (status.f_bavail * status.f_frsize - 8192))
    saving.RETRY_AFTER_S = (0.1,)
    with pytest.raises(StageError) as caught:
        ctx.commit_checkpoint(2, engine, AnyState())
    tell(caught.value)
    assert ctx.checkpoints.steps() == [1]
    assert NoSpace in {type(event) for event in ctx.line.events}
    filler.unlink()
    ctx.commit_checkpoint(2, engine, AnyState())
    assert ctx.checkpoints.steps() == [1, 2]


@pytest.mark.slow
def test_a_full_staging_disk_keeps_the_old_ones_and_waits_for_space(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT", root)
    told = "\n".join(elsewhere(full, tmp_path))
    assert "No space left on device" in told
    assert "bytes are needed" in told
