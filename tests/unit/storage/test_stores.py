"""The same promises on a local folder and on an object store."""

import threading
import uuid

import fsspec
import pytest

from orchestrator.errors import InputError, IntegrityError, StageError
from orchestrator.storage import (
    FolderExistsError,
    LockedError,
    atomic_write_json,
    atomic_write_text,
)
from orchestrator.storage.operations import fault_hook
from orchestrator.storage.remote import remote_store
from orchestrator.storage.stores import open_store
from orchestrator.storage.uris import local_path

from .killing import stage


@pytest.fixture(params=["path", "file uri", "memory"])
def store(request, tmp_path):
    if request.param == "memory":
        return open_store(f"memory://test-{uuid.uuid4().hex}")
    return open_store(tmp_path / "z" if request.param == "path" else f"file://{tmp_path}/z")


@pytest.fixture
def memory():
    return open_store(f"memory://test-{uuid.uuid4().hex}")


def test_files_are_written_read_and_replaced(store):
    with pytest.raises(FileNotFoundError):
        store.read("a/x.json", 10)
    store.write("a/x.json", b"one")
    store.write("a/x.json", b"two")
    store.write("a/empty", b"")
    assert store.read("a/x.json", 10) == b"two"
    assert store.read("a/empty", 10) == b""
    with pytest.raises(IntegrityError, match=r"x\.json"):
        store.read("a/x.json", 2)
    assert store.read_many(["a/x.json", "a/none"], 10) == {"a/x.json": b"two"}
    assert store.read_many(["a/x.json", "a/empty"], 2) == {"a/empty": b""}
    assert store.read_many([], 10) == {}


def test_folders_are_committed_once_and_dropped(store, tmp_path):
    assert store.folders() == []
    assert store.folders("m") == []
    store.commit_new(stage(tmp_path / "s1", "one"), "m/v1", {"n": 1})
    assert not (tmp_path / "s1").exists()
    assert store.folders() == ["m"]
    assert store.folders("m") == ["v1"]
    sizes = store.sizes("m/v1")
    assert set(sizes) == {"a.txt", "sub/deep/b.json", "empty.txt", "manifest.json"}
    assert sizes["a.txt"] == 3
    with pytest.raises(FolderExistsError):
        store.commit_new(stage(tmp_path / "s2", "two"), "m/v1", {"n": 2})
    assert (tmp_path / "s2" / "a.txt").exists()
    assert store.read("m/v1/a.txt", 10) == b"one"
    store.commit_new(tmp_path / "s2", "m/v2", {"n": 2})
    store.fetch("m/v2", ["a.txt", "sub/deep/b.json"], tmp_path / "copy")
    assert (tmp_path / "copy" / "a.txt").read_text() == "two"
    store.drop("m/v1")
    assert store.folders("m") == ["v2"]
    assert store.sizes("m/v1") == {}


def test_a_lock_excludes_and_is_given_back(store):
    inside = []

    def work(number):
        with store.lock("m/.lock"):
            inside.append(number)
            assert inside.count(number) == 1
            store.write("m/count", str(int(store.read("m/count", 9)) + 1).encode())

    store.write("m/count", b"0")
    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert store.read("m/count", 9) == b"6"


def test_the_lock_object_of_a_dead_writer_is_taken_over(memory, monkeypatch):
    monkeypatch.setattr(remote_store, "LEASE_S", 0.1)
    memory.write("m/.lock", b"somebody who died")
    with memory.lock("m/.lock"):
        monkeypatch.setattr(remote_store, "LEASE_S", 60)
        monkeypatch.setattr(remote_store, "LOCK_DEADLINE_S", 0.1)
        with pytest.raises(LockedError, match="another writer"), memory.lock("m/.lock"):
            pass


class Killed(BaseException):
    """The process is gone: nothing it does after this has an effect."""


def killed_at(stop):
    count = iter(range(10_000))

    def hook(_operation, _path):
        if next(count) >= stop:  # clean-up code of a dead process does nothing either
            raise Killed

    return hook


def test_an_upload_killed_anywhere_is_no_package_and_is_swept(memory, tmp_path):
    for stop in range(20):
        name = f"m{stop}"
        staged = stage(tmp_path / f"s{stop}", "new")
        try:
            with fault_hook(killed_at(stop)):
                memory.commit_new(staged, f"{name}/v1", {"n": 1})
        except Killed:
            committed = "manifest.json" in memory.sizes(f"{name}/v1")
        else:
            break
        if committed:
            assert len(memory.sizes(f"{name}/v1")) == 4
        elif stop > 0:
            with pytest.raises(FolderExistsError):  # the name stays claimed until it is swept
                memory.commit_new(stage(tmp_path / f"t{stop}", "x"), f"{name}/v1", {})
            assert memory.sweep(name, grace_s=3600) == []
        swept = memory.sweep(name, grace_s=0)
        assert bool(swept) == (not committed and stop > 0)
        assert len(memory.sizes(f"{name}/v1")) == (4 if committed else 0)
        if not committed:
            memory.commit_new(stage(tmp_path / f"u{stop}", "x"), f"{name}/v1", {})
    assert stop >= 6


def test_one_of_many_uploaders_wins(memory, tmp_path):
    results = []

    def work(number):
        staged = stage(tmp_path / f"s{number}", str(number))
        try:
            memory.commit_new(staged, "m/v1", {"n": number})
            results.append(number)
        except FolderExistsError:
            pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 1
    assert memory.read("m/v1/a.txt", 9) == str(results[0]).encode()


def test_a_failing_store_is_a_stage_error(memory, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("endpoint is not reachable")

    monkeypatch.setattr(type(memory._fs), "pipe_file", broken)
    with pytest.raises(StageError, match=r"endpoint is not reachable.*Check the address"):
        memory.write("x", b"1")


def test_single_files_go_to_any_address(tmp_path):
    uri = f"memory://test-{uuid.uuid4().hex}/x.json"
    atomic_write_json(uri, {"a": 1})
    with fsspec.open(uri) as file:
        assert b'"a": 1' in file.read()
    atomic_write_text(f"file://{tmp_path}/a%20b.txt", "x")
    assert (tmp_path / "a b.txt").read_text() == "x"


@pytest.mark.parametrize("uri", ["nothing://x/y", "s4://bucket"])
def test_an_unknown_protocol_lists_what_there_is(uri):
    with pytest.raises(InputError, match=r"memory://, s3://"):
        open_store(uri)


def test_addresses():
    assert str(local_path("a/b")) == "a/b"
    assert str(local_path("file:///a/b")) == "/a/b"
    assert local_path("s3://bucket/x") is None
    with pytest.raises(InputError, match="names the host 'host'"):
        local_path("file://host/a")
