"""One run commits one package, however often it is started."""

import pytest

from orchestrator.config import JobConfig, validate_config
from orchestrator.storage import RunFolder
from orchestrator.storage.stores import LocalStore
from orchestrator.zoo import Zoo, commit_once, committed

from .making import light


def config_of(tmp_path, zoo, name="r"):
    run = {"name": name, "dir": str(tmp_path / "runs"), "zoo": zoo.root}
    return validate_config(JobConfig, {"run": run}, "test")


def write(draft):
    (draft.path / "config.json").write_text("{}")


def test_the_package_of_a_run_is_committed_once(tmp_path, any_zoo):
    with RunFolder.open(config_of(tmp_path, any_zoo), "train") as run:
        assert committed(run, "base") is None
        first = commit_once(run, "base", kind="pretrained", metrics={"loss": 1.5}, write=write)
        again = commit_once(run, "base", kind="pretrained", write=None)
    assert again.ref == first.ref == "base/v0001"
    assert again.manifest.metrics == {"loss": 1.5}
    producer = first.manifest.producer
    assert (producer.stage, producer.job, producer.run_id) == ("train", "r", run.id)


def test_every_run_commits_a_package_of_its_own(tmp_path, zoo):
    refs = []
    for name in ("one", "two"):
        with RunFolder.open(config_of(tmp_path, zoo, name), "train") as run:
            refs.append(commit_once(run, "base", kind="pretrained", write=write).ref)
    assert refs == ["base/v0001", "base/v0002"]


def test_a_write_that_fails_commits_nothing(tmp_path, zoo):
    def fail(draft):
        write(draft)
        raise ValueError("no")

    with RunFolder.open(config_of(tmp_path, zoo), "train") as run:
        with pytest.raises(ValueError, match="no"):
            commit_once(run, "base", kind="pretrained", write=fail)
        assert committed(run, "base") is None
    assert zoo.names() == []


def test_the_package_of_a_run_is_the_newest_of_its_name(any_zoo):
    for name, run_id in [("base", "a"), ("base", "a"), ("base", "b"), ("other", "a")]:
        light(any_zoo, name, producer={"stage": "train", "run_id": run_id})
    assert any_zoo.made_by("base", "a").ref == "base/v0002"
    assert any_zoo.made_by("base", "b").ref == "base/v0003"
    assert any_zoo.made_by("base", "c") is None
    assert any_zoo.made_by("nothing", "a") is None


def test_a_winner_committed_under_the_older_key_is_found(zoo):
    light(zoo, producer={"stage": "select", "selection": "a"})
    assert zoo.made_by("base", "a").ref == "base/v0001"


def test_only_manifests_of_the_name_are_read(zoo, monkeypatch):
    light(zoo, "base", producer={"run_id": "a"})
    light(zoo, "other", producer={"run_id": "a"})
    asked, read_many = [], LocalStore.read_many

    def counted(store, paths, limit):
        asked.extend(paths)
        return read_many(store, paths, limit)

    monkeypatch.setattr(LocalStore, "read_many", counted)
    assert Zoo(zoo.root).made_by("base", "a") is not None
    assert asked == ["base/v0001/manifest.json"]


def test_a_damaged_version_is_passed_over(zoo):
    light(zoo, producer={"run_id": "a"})
    second = light(zoo, producer={"run_id": "a"})
    (second.path / "manifest.json").write_text("{")
    assert zoo.made_by("base", "a").ref == "base/v0001"
