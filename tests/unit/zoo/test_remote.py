"""Zoos that lie elsewhere: an S3 server over HTTP, and the verified local copies."""

import os
import uuid

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from orchestrator.errors import IntegrityError, StageError
from orchestrator.storage.commit import FolderExistsError
from orchestrator.storage.remote import remote_store
from orchestrator.storage.uris import cache_folder
from orchestrator.zoo import Zoo

from .making import HISTORY, light, make


@pytest.fixture
def memory():
    return Zoo(f"memory://remote-{uuid.uuid4().hex}")


@pytest.fixture
def s3(s3_root):
    return Zoo(f"{s3_root}/{uuid.uuid4().hex}/zoo")


def copies():
    return sorted(path.name for path in (cache_folder() / "zoo").rglob("v0*"))


def test_the_whole_life_of_a_zoo_on_s3(s3):
    assert s3.names() == []
    first = make(s3, metrics={"accuracy": 0.5}, licence="mit")
    second = make(s3, scale=2.0)
    child = make(s3, "child", kind="finetuned", parents=["base/v0001"])
    assert [package.ref for package in (first, second, child)] == [
        "base/v0001", "base/v0002", "child/v0001",
    ]  # fmt: skip
    s3.promote("base/v0001")
    s3.promote("base/v0002")
    assert s3.rollback("base").version == "v0001"
    assert s3.aliases("base") == {"champion": "v0001", "latest": "v0002"}
    package = s3.get("base@latest")
    assert np.all(load_file(package.path / "model.safetensors")["w"] == 2.0)
    pd.testing.assert_frame_equal(package.history(), pd.DataFrame(HISTORY))
    assert list(s3.index()["ref"]) == ["base/v0001", "base/v0002", "child/v0001"]
    assert [a.status for a in s3.lineage("child")] == ["ok", "ok"]
    assert all(finding.ok for finding in s3.verify())
    light(s3)
    assert s3.gc(dry_run=False, keep=1).removed == ("base/v0002",)
    assert s3.store.folders("base") == ["v0001", "v0003"]
    assert s3.get("base").version == "v0001"


def test_a_damaged_object_on_s3_is_found(s3):
    light(s3)
    light(s3)
    s3.store.write("base/v0002/config.json", b"[]")
    assert [f.ref for f in s3.verify() if not f.ok] == ["base/v0002"]
    assert s3.get("base").version == "v0001"
    with pytest.raises(IntegrityError, match=r"config\.json"):
        s3.get("base/v0002")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        s3.peek("base/v0002").read_json("config.json")
    assert copies() == [name for name in copies() if name.startswith("v0001")]


def test_a_version_on_s3_is_taken_once(s3, tmp_path):
    light(s3)
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "config.json").write_text("{}")
    with pytest.raises(FolderExistsError):
        s3.store.commit_new(staged, "base/v0001", {})
    with s3.store.lock("base/.lock"), pytest.raises(FileExistsError):
        remote_store.operations.put_new_bytes(s3.store._fs, s3.store._at("base/.lock"), b"another")
    with s3.store.lock("base/.lock"):
        pass


def test_a_prefix_without_a_manifest_is_no_package(s3):
    s3.store.write("base/v0001/config.json", b"{}")
    s3.store.write("base/v0001.tmp-claim", b"claimed\n")
    assert s3.packages() == []
    assert s3.verify() == []
    with pytest.raises(IntegrityError, match="never committed"):
        s3.get("base")
    assert light(s3).version == "v0002"
    assert s3.gc(dry_run=False, grace_s=3600).swept == ()
    assert len(s3.gc(dry_run=False, grace_s=0).swept) == 1
    assert s3.store.folders("base") == ["v0002"]
    assert s3.get("base").version == "v0002"


def test_a_bucket_that_is_not_there_is_a_clear_error(s3_root):
    zoo = Zoo("s3://no-such-bucket/zoo")
    with pytest.raises(StageError, match="no-such-bucket"):
        light(zoo)


def test_a_copy_is_made_once_and_checked_every_time(memory, monkeypatch):
    make(memory)
    fetched = []
    original = type(memory.store).fetch

    def spy(store, path, names, target):
        fetched.append(path)
        original(store, path, names, target)

    monkeypatch.setattr(type(memory.store), "fetch", spy)
    path = memory.get("base").path
    assert memory.get("base").path == path
    assert fetched == ["base/v0001"]
    (path / "config.json").write_text("[]")
    assert (memory.get("base").path / "config.json").read_text() == '{"hidden_size": 4}'
    (path / "extra.json").write_text("{}")
    assert not (memory.get("base").path / "extra.json").exists()
    assert fetched == ["base/v0001"] * 3
    assert len(copies()) == 1


def test_equal_names_of_different_zoos_share_no_copy(memory):
    other = Zoo(f"memory://remote-{uuid.uuid4().hex}")
    one, two = make(memory), make(other, scale=3.0)
    assert memory.get("base").path != other.get("base").path
    assert np.all(load_file(one.path / "model.safetensors")["w"] == 1.0)
    assert np.all(load_file(two.path / "model.safetensors")["w"] == 3.0)


def test_looking_fetches_nothing(memory, monkeypatch):
    make(memory)
    make(memory, "child", kind="finetuned", parents=["base"])
    monkeypatch.setattr(type(memory.store), "fetch", None)
    assert memory.peek("child").read_json("config.json") == {"hidden_size": 4}
    assert len(memory.index()) == 2
    assert len(memory.lineage("child")) == 2
    assert all(finding.ok for finding in memory.verify())


def test_a_fetch_that_fails_leaves_no_copy(memory, monkeypatch):
    make(memory)

    def broken(store, path, names, target):
        target.mkdir(parents=True)
        (target / names[0]).write_text("half")
        raise StageError("the network is gone")

    monkeypatch.setattr(type(memory.store), "fetch", broken)
    with pytest.raises(StageError, match="network is gone"):
        memory.get("base")
    assert [name for _, _, files in os.walk(cache_folder() / "zoo") for name in files] == []


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("ORCHESTRATOR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ray-model-orchestrator"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ray-model-orchestrator"
