"""The promises of a zoo, on a local folder and on an object store."""

import json
import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import sha256_file
from orchestrator.zoo import Zoo, manifest
from orchestrator.zoo.overview import COLUMNS

from .making import HISTORY, light, make


def test_a_package_is_what_was_written(any_zoo):
    package = make(
        any_zoo,
        task={"kind": "classification", "labels": {"topic": ["a", "b"]}, "max_length": 64},
        metrics={"accuracy": np.float32(0.5), "steps": 7, "best": None, "nan": float("nan")},
        licence="apache-2.0",
    )
    assert (package.ref, package.version, package.kind) == ("base/v0001", "v0001", "pretrained")
    read = any_zoo.get("base")
    assert read.manifest == package.manifest
    assert read.manifest.metrics == {"accuracy": 0.5, "steps": 7, "best": None, "nan": None}
    assert read.manifest.task.labels == {"topic": ["a", "b"]}
    assert read.read_json("config.json") == {"hidden_size": 4}
    assert read.read_json("evaluation/test.json") == {"accuracy": 0.5}
    pd.testing.assert_frame_equal(read.history(), pd.DataFrame(HISTORY))
    assert load_file(read.path / "model.safetensors")["w"].shape == (3, 4)
    assert read.has("model.safetensors")
    assert not read.has("model.onnx")
    with pytest.raises(
        InputError, match=r"has no file 'nothing\.json'\. It has: README\.md, config"
    ):
        read.read_json("nothing.json")


def test_the_manifest_lists_every_file_and_what_made_them(zoo):
    package = make(zoo)
    stored = json.loads((package.path / "manifest.json").read_text())
    files = {p.relative_to(package.path).as_posix() for p in package.path.rglob("*") if p.is_file()}
    assert set(stored["files"]) == files - {"manifest.json"}
    for name, entry in stored["files"].items():
        assert entry["sha256"] == sha256_file(package.path / name)
        assert entry["bytes"] == (package.path / name).stat().st_size
    assert stored["schema_version"] == 1
    assert stored["producer"]["stage"] == "pretrain"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", stored["producer"]["git_revision"] or "0" * 40)
    assert stored["producer"]["libraries"]["torch"].startswith("2.")
    assert datetime.fromisoformat(stored["created_at"]).tzinfo is not None
    assert sha256_file(package.path / "manifest.json") == package.manifest_sha256


def test_versions_count_up_and_latest_follows(any_zoo):
    assert any_zoo.names() == []
    for number in (1, 2, 3):
        assert light(any_zoo).version == f"v000{number}"
    assert any_zoo.get("base").version == "v0003"
    assert any_zoo.get("base@latest").version == "v0003"
    assert any_zoo.get("base/v0002").version == "v0002"
    assert any_zoo.aliases("base") == {"latest": "v0003"}
    assert [package.ref for package in any_zoo.packages()] == [f"base/v000{n}" for n in (1, 2, 3)]


def test_a_champion_is_the_default_and_rolls_back(any_zoo):
    for _ in range(3):
        light(any_zoo)
    for version in ("v0001", "v0002", "v0003"):
        assert any_zoo.promote(f"base/{version}").version == version
    light(any_zoo)
    assert any_zoo.get("base").version == "v0003"
    assert any_zoo.rollback("base").version == "v0002"
    assert any_zoo.rollback("base").version == "v0001"
    with pytest.raises(InputError, match="is v0001 and held no other version to go back to"):
        any_zoo.rollback("base")
    any_zoo.promote("base@latest")
    assert any_zoo.get("base").version == "v0004"
    assert any_zoo.rollback("base").version == "v0001"  # rolled-back versions are not returned to
    any_zoo.promote("base/v0002", "candidate")
    assert any_zoo.aliases("base") == {"champion": "v0001", "candidate": "v0002", "latest": "v0004"}
    assert any_zoo.get("base@candidate").version == "v0002"


def test_rollback_skips_versions_that_are_damaged_or_gone(zoo):
    for _ in range(4):
        zoo.promote(light(zoo).ref)
    (zoo.get("base/v0003").path / "config.json").write_text("[]")
    zoo.store.drop("base/v0002")
    assert zoo.rollback("base").version == "v0001"


def test_moves_that_make_no_sense_are_refused(zoo):
    light(zoo)
    for move in (zoo.promote, zoo.rollback):
        with pytest.raises(InputError, match="moves with every commit"):
            move("base", "latest")
        with pytest.raises(InputError, match="is not an alias"):
            move("base", "v0001")
    with pytest.raises(InputError, match="has no alias 'champion'"):
        zoo.rollback("base")
    zoo.promote("base/v0001")
    zoo.promote("base/v0001")
    with pytest.raises(InputError, match="held no other version"):
        zoo.rollback("base")


def test_what_does_not_exist_is_answered_with_what_does(any_zoo):
    with pytest.raises(InputError, match="is empty"):
        any_zoo.get("base")
    light(any_zoo)
    light(any_zoo, "other")
    with pytest.raises(InputError, match=r"Did you mean 'base'\? Packages: base, other"):
        any_zoo.get("bass")
    with pytest.raises(InputError, match=r"Versions: v0001"):
        any_zoo.get("base/v0007")
    with pytest.raises(InputError, match=r"has no alias 'lates'\. Did you mean 'latest'"):
        any_zoo.get("base@lates")
    for check in (any_zoo.verify, any_zoo.lineage, any_zoo.promote):
        with pytest.raises(InputError):
            check("bass")
        with pytest.raises(InputError):
            check("base/v0009")


def test_a_damaged_newest_version_is_passed_over_with_a_warning(zoo, caplog):
    light(zoo)
    light(zoo)
    (zoo.get("base").path / "config.json").write_text("[]")
    assert zoo.get("base").version == "v0001"
    assert "fell_back" in caplog.text
    assert "config.json" in caplog.text
    with pytest.raises(IntegrityError, match=r"config\.json"):
        zoo.get("base/v0002")
    (zoo.get("base").path / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"config\.json"):
        zoo.get("base")


def test_a_damaged_champion_falls_back_to_the_champion_before_not_to_the_latest(zoo):
    for _ in range(3):
        light(zoo)
    zoo.promote("base/v0001")
    zoo.promote("base/v0002")
    (zoo.get("base").path / "config.json").write_text("[]")
    assert zoo.get("base").version == "v0001"
    assert zoo.get("base@champion").version == "v0001"
    with pytest.raises(IntegrityError):
        zoo.promote("base/v0002", "candidate")
    assert zoo.aliases("base")["champion"] == "v0002"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"aliases": {"champion": "../x"}}'])
def test_a_damaged_alias_file_hides_no_package(zoo, content):
    light(zoo)
    zoo.promote("base/v0001")
    light(zoo)
    (zoo.store.folder / "base" / "aliases.json").write_text(content)
    assert zoo.get("base").version == "v0002"
    assert zoo.aliases("base") == {"latest": "v0002"}
    with pytest.raises(IntegrityError):
        zoo.get("base@champion")
    with pytest.raises(IntegrityError):
        zoo.gc()
    assert [f.ok for f in zoo.verify()] == [True, True, False]
    assert light(zoo).version == "v0003"
    zoo.promote("base/v0001")
    assert zoo.get("base@champion").version == "v0001"
    assert (zoo.store.folder / "base" / "aliases.damaged.json").read_text() == content


def test_a_draft_that_is_not_committed_leaves_nothing(any_zoo):
    with any_zoo.draft("base", kind="pretrained") as draft:
        (draft.path / "config.json").write_text("{}")
    assert not draft.path.exists()
    with pytest.raises(ZeroDivisionError), any_zoo.draft("base", kind="pretrained") as draft:
        raise ZeroDivisionError
    assert not draft.path.exists()
    assert any_zoo.packages() == []
    assert any_zoo.names() == []
    with pytest.raises(InputError, match="closed"):
        draft.commit()
    with (
        any_zoo.draft("base", kind="pretrained") as draft,
        pytest.raises(InputError, match="is empty: write files into"),
    ):
        draft.commit()


def test_metadata_that_is_wrong_is_refused_before_any_work(zoo):
    light(zoo)
    wrong = [
        {"kind": "trained"},
        {"task": {"modality": "text"}},
        {"task": {"kind": "lm", "max_length": "many"}},
        {"metrics": {"model": object()}},
        {"parents": ["nobody"]},
        {"parents": ["base/v0009"]},
        {"licence": 7},
    ]
    for fields in wrong:
        with pytest.raises(InputError):
            zoo.draft("x", **{"kind": "pretrained", **fields})
    assert zoo.names() == ["base"]


def test_metrics_and_task_may_be_filled_before_the_commit(zoo):
    with zoo.draft("base", kind="pretrained") as draft:
        (draft.path / "config.json").write_text("{}")
        draft.metrics["loss"] = 1.5
        draft.task = {"kind": "lm", "extra": [1]}
        package = draft.commit()
    assert package.manifest.metrics == {"loss": 1.5}
    assert package.manifest.task.model_dump()["extra"] == [1]


def test_a_clock_that_jumps_overwrites_nothing(zoo, monkeypatch):
    times = [datetime(2030, 1, 1, tzinfo=UTC), datetime(1999, 1, 1, tzinfo=UTC)] * 2
    for time in times:
        monkeypatch.setattr(manifest, "now", lambda time=time: time)
        monkeypatch.setattr("orchestrator.zoo.draft.now", lambda time=time: time)
        light(zoo)
    assert [p.version for p in zoo.packages()] == ["v0001", "v0002", "v0003", "v0004"]
    assert zoo.get("base").version == "v0004"


def test_a_version_that_was_removed_is_never_made_again(zoo):
    light(zoo)
    light(zoo)
    zoo.store.drop("base/v0002")
    assert light(zoo).version == "v0003"


def test_more_than_9999_versions_keep_their_order(zoo):
    light(zoo)
    (zoo.store.folder / "base" / "v0001").rename(zoo.store.folder / "base" / "v9999")
    path = zoo.store.folder / "base" / "v9999" / "manifest.json"
    path.write_text(path.read_text().replace("v0001", "v9999"))
    (zoo.store.folder / "base" / "aliases.json").unlink()
    assert light(zoo).version == "v10000"
    assert zoo.get("base").version == "v10000"


def test_the_index_is_a_table_of_the_manifests(any_zoo):
    empty = any_zoo.index()
    assert list(empty.columns) == list(COLUMNS)
    assert empty.empty
    light(any_zoo, metrics={"accuracy": 0.5, "note": "text"}, licence="mit")
    light(
        any_zoo,
        "child",
        kind="finetuned",
        parents=["base"],
        metrics={"loss": 2},
        task={"kind": "lm"},
    )
    any_zoo.promote("base/v0001")
    index = any_zoo.index().set_index("ref")
    assert list(index.index) == ["base/v0001", "child/v0001"]
    assert index.loc["base/v0001", "aliases"] == "champion latest"
    assert index.loc["child/v0001", "parents"] == "base/v0001"
    assert index.loc["child/v0001", "task"] == "lm"
    assert index.loc["base/v0001", "metric.accuracy"] == 0.5
    assert np.isnan(index.loc["child/v0001", "metric.accuracy"])
    assert index["metric.loss"].dtype == np.float64
    assert index["created_at"].dt.tz is not None
    assert empty.set_index("ref").dtypes.equals(index[empty.columns[1:]].dtypes)
    assert "metric.note" not in index


def test_the_index_reads_manifests_only(zoo, monkeypatch):
    package = make(zoo)
    (package.path / "model.safetensors").unlink()
    read = []
    original = type(zoo.store).read

    def spy(store, path, limit):
        read.append(path)
        return original(store, path, limit)

    monkeypatch.setattr(type(zoo.store), "read", spy)
    assert len(zoo.index()) == 1
    assert {path.rpartition("/")[2] for path in read} == {"manifest.json", "aliases.json"}


def test_a_damaged_manifest_is_left_out_of_the_index_and_reported(any_zoo, caplog):
    light(any_zoo)
    light(any_zoo, "other")
    any_zoo.store.write("base/v0001/manifest.json", b"{")
    assert list(any_zoo.index()["ref"]) == ["other/v0001"]
    assert "damaged_manifest ref=base/v0001" in caplog.text
    findings = {finding.ref: finding.ok for finding in any_zoo.verify()}
    assert findings == {"base/v0001": False, "other/v0001": True}


def test_verify_names_what_is_damaged(any_zoo):
    make(any_zoo)
    make(any_zoo)
    light(any_zoo, "other")
    assert all(finding.ok for finding in any_zoo.verify())
    any_zoo.store.write("base/v0002/evaluation/test.json", b'{"accuracy": 0.9}')
    bad = [finding for finding in any_zoo.verify() if not finding.ok]
    assert [finding.ref for finding in bad] == ["base/v0002"]
    assert "evaluation/test.json" in bad[0].message
    assert any_zoo.verify("base/v0001")[0].ok
    assert not any_zoo.verify("base")[0].ok  # not followed to the version before
    with pytest.raises(IntegrityError):
        any_zoo.promote("base/v0002")


def test_a_pointer_to_nowhere_is_reported(zoo):
    light(zoo)
    light(zoo)
    zoo.promote("base/v0001")
    zoo.store.drop("base/v0001")
    assert [f.ref for f in zoo.verify() if not f.ok] == ["base@champion"]


def test_history_that_is_no_parquet_is_an_integrity_error(zoo):
    with zoo.draft("base", kind="pretrained") as draft:
        (draft.path / "history.parquet").write_bytes(b"PAR1 not really PAR1")
        package = draft.commit()
    with pytest.raises(IntegrityError, match=r"history\.parquet: damaged"):
        package.history()
    assert light(zoo).history() is None


def test_a_manifest_of_another_package_is_refused(zoo):
    light(zoo)
    other = zoo.store.folder / "other" / "v0001"
    other.parent.mkdir()
    zoo.get("base").path.rename(other)
    with pytest.raises(IntegrityError, match="belongs to base/v0001, not to other/v0001"):
        zoo.get("other/v0001")


def test_a_zoo_that_is_not_there_is_empty_and_stays_so(tmp_path):
    zoo = Zoo(tmp_path / "none")
    assert zoo.names() == []
    assert zoo.verify() == []
    assert zoo.index().empty
    assert zoo.gc().removed == ()
    assert not (tmp_path / "none").exists()
