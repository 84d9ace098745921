"""Rows 9 and 10 of the fault table: no space, file size limits, read-only places."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import textwrap

import pytest

from orchestrator.errors import StageError
from orchestrator.storage import (
    atomic,
    atomic_write_bytes,
    commit_folder,
    is_temporary,
    operations,
    read_json,
    sweep_temporary,
    temporary_sibling,
    verify_folder,
)
from orchestrator.storage.operations import fault_hook

from .killing import stage

NEEDS_SPACE = ("mkdir", "create", "write", "fsync")


def in_child(action):
    """Run ``action`` in a process of its own and return the text of the StageError it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
        except StageError as error:
            os.write(writer, str(error).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text
    return text


def full_at(stop):
    count = iter(range(10_000))

    def hook(operation, path):
        if operation in NEEDS_SPACE and next(count) == stop:
            raise OSError(errno.ENOSPC, "No space left on device", path)

    return hook


def test_a_full_disk_anywhere_in_a_commit_keeps_the_old_state(tmp_path, monkeypatch):
    rename = operations.replace

    def other_device(source, target):
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(target))
        rename(source, target)

    monkeypatch.setattr(operations, "replace", other_device)
    root = tmp_path / "root"
    commit_folder(stage(tmp_path / "first", "old"), root / "state", {"text": "old"})
    for stop in range(100):
        staged = stage(tmp_path / f"staged-{stop}", "new")
        with pytest.raises(StageError, match="intact"), fault_hook(full_at(stop)):
            commit_folder(staged, root / "state", {"text": "new"})
        assert [p.name for p in root.iterdir() if is_temporary(p.name)] == []
        if verify_folder(root / "state")["text"] == "new":
            break  # only bringing the parent to the disk was left to do
        assert (staged / "a.txt").read_text() == "new"
    assert stop >= 15


def test_a_full_disk_anywhere_in_a_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    atomic_write_bytes(path, b"old")
    for stop in range(4):
        with pytest.raises(StageError, match="No space left"), fault_hook(full_at(stop)):
            atomic_write_bytes(path, b"new" * 100)
        assert os.listdir(tmp_path) == ["state.json"]
    with fault_hook(full_at(5)):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_message_says_how_much_is_needed_and_free(tmp_path):
    with (
        pytest.raises(StageError, match=r"1,000,000 bytes are needed, [\d,]+ are free") as caught,
        fault_hook(full_at(1)),
    ):
        atomic_write_bytes(tmp_path / "x", b"0" * 1_000_000)
    assert caught.value.exit_code == 1


def test_a_file_size_limit_is_a_clear_error(tmp_path):
    path = tmp_path / "state.bin"
    atomic_write_bytes(path, b"old")

    def action():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        atomic_write_bytes(path, b"x" * 100_000)

    assert "File too large: 100,000 bytes are needed" in in_child(action)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.bin"]


FULL_TMPFS = """
import os, subprocess, sys
from pathlib import Path
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(root)], check=True)
from orchestrator.errors import StageError
from orchestrator.storage import *
old = root / "first"; old.mkdir(); (old / "a.txt").write_text("old")
commit_folder(old, root / "state", {"text": "old"})
big = Path(sys.argv[2]); (big / "w.txt").write_bytes(os.urandom(400_000))
for attempt in (
    lambda: commit_folder(big, root / "state", {"text": "new"}),
    lambda: atomic_write_bytes(root / "x.bin", os.urandom(400_000)),
):
    try:
        attempt()
    except StageError as error:
        print(error)
    assert os.listdir(root) == ["state"], os.listdir(root)
    assert verify_folder(root / "state")["text"] == "old"
"""


def test_a_really_full_file_system(tmp_path):
    unshare = shutil.which("unshare")
    probe = [unshare, "--mount", "mount", "-t", "tmpfs", "none", "/mnt"] if unshare else ["false"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs the privilege to mount a small tmpfs")
    (tmp_path / "root").mkdir()
    (tmp_path / "big").mkdir()
    code = textwrap.dedent(FULL_TMPFS)
    arguments = [str(tmp_path / "root"), str(tmp_path / "big")]
    done = subprocess.run(
        [unshare, "--mount", sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("No space left on device" in line and "bytes are needed" in line for line in lines)


def without_rights(action):
    """Run ``action`` as a user who owns nothing here."""

    def dropped():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        action()

    return in_child(dropped)


def test_a_place_that_may_not_be_written(tmp_path):
    folder = tmp_path / "closed"
    commit_folder(stage(tmp_path / "s", "old"), folder / "state", {"text": "old"})
    folder.chmod(0o555)
    try:
        text = without_rights(lambda: atomic_write_bytes(folder / "x", b"1"))
        assert "cannot be written (Permission denied)" in text
        assert "Choose a writable place" in text
    finally:
        folder.chmod(0o755)
    assert os.listdir(folder) == ["state"]


def test_a_commit_that_may_not_be_written_keeps_the_staged_files(tmp_path):
    staged = stage(tmp_path / "s", "new")

    def refuse(operation, path):
        if operation == "replace":
            raise OSError(errno.EROFS, "Read-only file system", path)

    with pytest.raises(StageError, match="Read-only file system"), fault_hook(refuse):
        commit_folder(staged, tmp_path / "zoo" / "x", {})
    assert (staged / "a.txt").read_text() == "new"


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StageError, match=r"a file is in the way|Not a directory"):
        atomic_write_bytes(tmp_path / "runs" / "x", b"1")
    with pytest.raises(StageError):
        commit_folder(stage(tmp_path / "s", "x"), tmp_path / "runs", {})
    assert (tmp_path / "s" / "a.txt").exists()


def test_a_stale_handle_is_a_clear_error(tmp_path):
    def stale(operation, path):
        if operation == "fsync":
            raise OSError(errno.ESTALE, "Stale file handle", path)

    with pytest.raises(StageError, match="Stale file handle"), fault_hook(stale):
        atomic_write_bytes(tmp_path / "x", b"1")
    assert os.listdir(tmp_path) == []


def test_sweeping_respects_the_grace_time_and_what_is_committed(tmp_path):
    commit_folder(stage(tmp_path / "s", "x"), tmp_path / "state", {})
    stage(temporary_sibling(tmp_path / "state"), "young")
    atomic_write_bytes(temporary_sibling(tmp_path / "file.json"), b"1")
    assert sweep_temporary(tmp_path) == []
    old = [path for path in tmp_path.iterdir() if is_temporary(path.name)]
    for path in [*old, *old[0].rglob("*"), *old[1].rglob("*")]:
        os.utime(path, (1, 1))
    assert sweep_temporary(tmp_path) == sorted(old)
    assert os.listdir(tmp_path) == ["state"]
    assert sweep_temporary(tmp_path / "missing") == []


def test_sweeping_passes_over_what_its_writer_commits_at_this_moment(tmp_path, monkeypatch):
    def committed_meanwhile(name):
        (tmp_path / name).replace(tmp_path / "state")
        return True

    temporary_sibling(tmp_path / "state").mkdir()
    monkeypatch.setattr(atomic, "is_temporary", committed_meanwhile)
    assert sweep_temporary(tmp_path) == []
    assert os.listdir(tmp_path) == ["state"]


def test_written_json_is_strict(tmp_path):
    import numpy as np

    atomic_write_bytes(tmp_path / "x", b"")
    operations.remove(tmp_path / "x")
    from orchestrator.storage import atomic_write_json

    value = {"nan": float("nan"), "f": np.float32(0.5), "a": np.arange(3), 3: {1, 2}, "p": tmp_path}
    atomic_write_json(tmp_path / "x.json", value)
    assert "NaN" not in (tmp_path / "x.json").read_text()
    expected = {"nan": None, "f": 0.5, "a": [0, 1, 2], "3": [1, 2], "p": str(tmp_path)}
    assert read_json(tmp_path / "x.json") == expected
    with pytest.raises(TypeError, match="cannot be stored as JSON"):
        atomic_write_json(tmp_path / "y.json", {"x": object()})
