"""A power cut: everything is on the disk before the name appears, and the name after it."""

import os
from pathlib import Path

import pytest

from orchestrator.storage import atomic_write_bytes, commit_folder, temporary_sibling

from .killing import stage


@pytest.fixture
def events(monkeypatch):
    """Record what is brought to the disk and what is renamed, in order."""
    seen = []
    rename = os.replace

    def spy_fsync(descriptor):
        seen.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def spy_replace(source, target):
        seen.append(("replace", str(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    monkeypatch.setattr(Path, "replace", spy_replace)
    return seen


def test_a_commit_syncs_every_file_and_folder_then_renames_then_syncs_the_parent(tmp_path, events):
    staged = stage(temporary_sibling(tmp_path / "v1"), "x")
    commit_folder(staged, tmp_path / "v1", {})
    renamed = events.index(("replace", str(tmp_path / "v1")))
    before = [path.removeprefix(str(staged)) for kind, path in events[:renamed] if kind == "fsync"]
    files = {"/a.txt", "/sub/deep/b.json", "/empty.txt"}
    assert set(before) == {*files, "/manifest.json", "/sub/deep", "/sub", ""}
    last_file = max(before.index(name) for name in files)
    assert before.index("/manifest.json") > last_file
    assert before.index("") > before.index("/manifest.json")
    assert events[renamed + 1 :] == [("fsync", str(tmp_path))]


def test_a_copied_commit_syncs_the_copies(tmp_path, events, monkeypatch):
    from orchestrator.storage import operations

    rename = operations.replace

    def other_device(source, target):
        if source.parent != target.parent:
            raise OSError(18, "Invalid cross-device link", str(target))
        rename(source, target)

    monkeypatch.setattr(operations, "replace", other_device)
    commit_folder(stage(tmp_path / "s", "x"), tmp_path / "zoo" / "v1", {})
    synced = {path.rpartition("/")[2] for kind, path in events if kind == "fsync"}
    assert {"a.txt", "b.json", "empty.txt", "manifest.json", "zoo"} <= synced


def test_a_file_is_synced_then_renamed_then_the_folder_is_synced(tmp_path, events):
    atomic_write_bytes(tmp_path / "x.json", b"{}")
    kinds = [kind for kind, _ in events]
    assert kinds == ["fsync", "replace", "fsync"]
    assert "x.json.tmp-" in events[0][1]
    assert events[2] == ("fsync", str(tmp_path))
