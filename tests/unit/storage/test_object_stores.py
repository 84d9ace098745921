"""Claims, leases, retries and mirrors of runs on a real S3 server."""

import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.config import JobConfig, validate_config
from orchestrator.errors import ConfigError, InputError, StageError
from orchestrator.storage import LockedError, RunFolder
from orchestrator.storage.claims import Claim, FencedError, numbers
from orchestrator.storage.disk_failures import UnreachableError
from orchestrator.storage.remote import lease, mirrored_run, patience
from orchestrator.storage.remote.lease import LOCK, Lease, require_exclusive
from orchestrator.storage.remote.remote_store import RemoteStore
from tests.support.s3 import Relay, settings


class RemoteConfig(JobConfig):
    """A job that takes a remote run folder."""

    remote_runs: ClassVar[bool] = True
    steps: int = 10


@pytest.fixture(autouse=True)
def _staging(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "LEASE_S", 0.6)
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    monkeypatch.setattr(patience, "PAUSES_S", (0.05,))


@pytest.fixture
def root(s3_port):
    with settings(s3_port) as bucket:
        yield f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def relayed(s3_port):
    relay = Relay(s3_port)
    with settings(relay.port) as bucket:
        yield relay, f"{bucket}/{uuid.uuid4().hex}"
    relay.close()


def config(root, **more):
    return validate_config(RemoteConfig, {"run": {"name": "r", "dir": root}, **more}, "test")


def test_of_many_claims_at_once_one_has_the_right(root):
    store = RemoteStore(root)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(Claim.take, [store] * 12))
    assert len({claim.number for claim in claims}) == len(claims)
    newest = max(claims, key=lambda claim: claim.number)
    newest.require()
    for claim in claims:
        if claim is not newest:
            with pytest.raises(FencedError, match=rf"by group {newest.number} \(process \d+ on"):
                claim.require()


def test_groups_of_an_older_lease_never_shut_out_those_of_a_newer_one(root):
    store = RemoteStore(root)
    old = Claim.take(store, lease=1)
    new = Claim.take(store, lease=2)
    with pytest.raises(StageError, match="another driver has taken over"):
        Claim.take(store, lease=1)
    new.require()
    with pytest.raises(FencedError):
        old.require()


def test_a_lost_answer_is_not_taken_for_another_writer(root, monkeypatch):
    store = RemoteStore(root, patience_s=5, say=lambda text: None)
    put, failures = type(store._fs).pipe_file, iter([True])

    def answered_late(self, *arguments, **options):
        put(self, *arguments, **options)
        if next(failures, False):
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(type(store._fs), "pipe_file", answered_late)
    store.create("x", b"mine")
    with pytest.raises(FileExistsError):
        store.create("x", b"theirs")


class Overwriting(MemoryFileSystem):
    """A store without conditional writes."""

    protocol = "overwriting"

    def pipe_file(self, path, value, mode="overwrite", **options):
        super().pipe_file(path, value, **options)


def test_a_store_without_conditional_writes_is_refused(root):
    fsspec.register_implementation("overwriting", Overwriting, clobber=True)
    require_exclusive(RemoteStore(root))
    require_exclusive(RemoteStore("memory://some"))
    with pytest.raises(InputError, match="no conditional writes"):
        RunFolder.open(config("overwriting://some/place"), "pretrain")
    assert not RemoteStore("overwriting://some/place").files("r")


def test_a_lease_is_held_by_one_and_taken_over_from_the_dead(root, caplog):
    caplog.set_level(logging.INFO)
    first, second = Lease(RemoteStore(root)), Lease(RemoteStore(root))
    first.acquire()
    began = time.monotonic()
    with pytest.raises(LockedError, match=r"held by process \d+ on .* since 20"):
        second.acquire()
    assert time.monotonic() - began < 10
    assert "waiting up to" in caplog.text
    first._beats.stop()  # as of a process that was suspended
    second.acquire()
    assert second.number == first.number + 1
    with pytest.raises(LockedError, match="another process has taken over this run"):
        first.require()
    first.release()  # changes nothing
    second.require()
    second.release()
    third = Lease(RemoteStore(root))
    third.acquire()  # at once: it was released
    assert numbers(third._store, LOCK) == [third.number]
    third.release()


def test_a_lost_connection_is_waited_out_and_said(relayed):
    relay, root = relayed
    said = []
    store = RemoteStore(root, patience_s=60, say=said.append)
    store.write("x", b"1")
    relay.set((500, "InternalError"))
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(store.write, "x", b"2")
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
        relay.set(None)
        late.result(60)
    assert store.read("x", 10) == b"2"
    (text,) = said
    assert "InternalError" in text
    assert "Trying again, for up to" in text


def test_waiting_has_a_limit_and_refusals_are_not_waited_for(relayed):
    relay, root = relayed
    store = RemoteStore(root, patience_s=0.2, say=lambda text: None)
    relay.set((507, "InsufficientStorage"))
    with pytest.raises(UnreachableError, match=r"/x: the store failed .*InsufficientStorage"):
        store.write("x", b"1")
    relay.set((403, "AccessDenied"))
    patient = RemoteStore(root, patience_s=600)
    began = time.monotonic()
    with pytest.raises(StageError, match="AccessDenied"):
        patient.write("x", b"1")
    assert time.monotonic() - began < 5


def test_a_run_goes_on_with_another_staging_folder(root, monkeypatch, tmp_path):
    with RunFolder.open(config(root), "pretrain") as run:
        run.mark("a/b", {"x": 1})
        identity = run.id
        (run.path / "tensorboard").mkdir()
        (run.path / "tensorboard" / "events").write_bytes(b"curve")
        (run.path / "journal" / "left over.json").write_text("{}")
        assert run.address == f"{root}/r"
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "other machine"))
    with RunFolder.open(config(root), "pretrain") as run:
        assert run.path.is_relative_to(tmp_path / "other machine")
        assert run.done("a/b") == {"x": 1}
        assert run.id == identity
        assert (run.path / "tensorboard" / "events").read_bytes() == b"curve"
        assert run.remote.lease == 2
        run.mark("a/b", {"x": 2})
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    with RunFolder.open(config(root), "pretrain") as run:  # the store decides
        assert run.done("a/b") == {"x": 2}
        assert not (run.path / "journal" / "left over.json").exists()
    with pytest.raises(ConfigError, match=rf"(?s)in {root}/r.*steps: is 11 now.*Choose another"):
        RunFolder.open(config(root, steps=11), "pretrain")


def refuse(config, stage, work):
    with RunFolder.open(config, stage) as run:
        (run.path / "tensorboard").mkdir()
        (run.path / "tensorboard" / "events").write_bytes(b"curve")
        (run.mark if work else run.pin)("data", {"sha256": "of bad data"})
        raise InputError("no corpus")


def test_a_run_that_is_refused_for_its_input_leaves_the_store(root):
    store = RemoteStore(f"{root}/r")
    with pytest.raises(InputError, match="no corpus"):
        refuse(config(root), "pretrain", work=False)
    assert [name for name in store.files() if name[0] != "."] == store.folders() == []
    with pytest.raises(InputError, match="no corpus"):
        refuse(config(root, steps=11), "select", work=True)
    assert "job.yaml" in store.files()


def test_two_drivers_on_two_machines(root, monkeypatch, tmp_path):
    first = RunFolder.open(config(root), "pretrain")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "other machine"))
    with pytest.raises(InputError, match=rf"run 'r' is in use: {root}/r: held by process"):
        RunFolder.open(config(root), "pretrain")
    first.remote._lease._beats.stop()  # cut off
    with RunFolder.open(config(root), "pretrain") as second:
        second.mark("step", {"by": "second"})
        with pytest.raises(LockedError, match="taken over"):
            first.mark("step", {"by": "first"})
        first.close()
        assert second.done("step") == {"by": "second"}
        second.remote._lease.require()


def test_logs_are_copied_while_the_run_goes_on(root, monkeypatch):
    monkeypatch.setattr(mirrored_run, "LOGS_S", 0.1)
    with RunFolder.open(config(root), "pretrain") as run:
        events = run.path / "tensorboard" / "events"
        events.parent.mkdir()
        events.write_bytes(b"one")
        store, deadline = RemoteStore(f"{root}/r"), time.monotonic() + 20
        while not store.files("tensorboard"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        events.write_bytes(b"one two")
    assert store.read("tensorboard/events", 100) == b"one two"
