"""Rows 11 and 12: whatever happens to the bytes of a committed folder is noticed and named."""

import json
import os
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import IntegrityError
from orchestrator.storage import (
    commit_folder,
    newest_valid,
    read_json,
    read_manifest,
    sha256_file,
    verify_folder,
)
from orchestrator.storage.files import scan, unsafe_reason

from .killing import stage

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def folder(tmp_path):
    commit_folder(stage(tmp_path / "s", "some text"), tmp_path / "zoo" / "x", {"step": 1})
    return tmp_path / "zoo" / "x"


FILES = ["a.txt", "sub/deep/b.json", "empty.txt"]


def test_a_committed_folder_verifies(folder):
    manifest = verify_folder(folder)
    assert manifest["step"] == 1
    assert set(manifest["files"]) == set(FILES)
    assert manifest["files"]["empty.txt"]["bytes"] == 0


@pytest.mark.parametrize("name", FILES[:2])
def test_every_flipped_bit_is_found(folder, name):
    path = folder / name
    data = path.read_bytes()
    for position in range(0, len(data) * 8, 5):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(IntegrityError, match=name):
            verify_folder(folder)
    path.write_bytes(data)
    verify_folder(folder)


def test_every_flipped_bit_of_the_manifest_is_found_or_harmless(folder):
    path = folder / "manifest.json"
    data = path.read_bytes()
    good = json.loads(data)
    for position in range(0, len(data) * 8, 7):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            found = verify_folder(folder)
        except IntegrityError:
            continue
        assert found["files"] == good["files"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_or_longer_file_is_named(folder, name):
    path = folder / name
    data = path.read_bytes()
    for changed in {data[:1], data[: len(data) // 2], data[:-1], data + b"x"} - {data}:
        path.write_bytes(changed)
        with pytest.raises(IntegrityError, match=f"{name}: damaged: {len(changed)} bytes"):
            verify_folder(folder)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{name}: missing"):
        verify_folder(folder)


def test_a_file_that_is_not_listed_is_refused(folder):
    (folder / "sub" / "extra.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"sub/extra\.json: not in the manifest"):
        verify_folder(folder)


@pytest.mark.parametrize("kind", ["file link", "folder link", "pipe", "socket"])
def test_links_and_devices_are_refused_without_reading_them(folder, tmp_path, kind):
    path = folder / "x"
    (tmp_path / "secret").write_text("some text")
    if kind == "file link":
        (folder / "a.txt").unlink()
        (folder / "a.txt").symlink_to(tmp_path / "secret")
    elif kind == "folder link":
        path.symlink_to(tmp_path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        here = os.getcwd()
        os.chdir(folder)
        socket.socket(socket.AF_UNIX).bind("x")
        os.chdir(here)
    with pytest.raises(IntegrityError, match=r"symbolic link|no regular file"):
        verify_folder(folder)
    with pytest.raises(IntegrityError):
        scan(folder)


def test_a_link_in_place_of_the_folder_or_the_manifest(folder):
    link = folder.with_name("y")
    link.symlink_to(folder)
    with pytest.raises(IntegrityError, match="is a symbolic link"):
        verify_folder(link)
    (folder / "manifest.json").rename(folder.parent / "m.json")
    (folder / "manifest.json").symlink_to(folder.parent / "m.json")
    with pytest.raises(IntegrityError, match="cannot be read"):
        verify_folder(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}",
        b'{"files": []}', b'{"files": {"a": 1}}',
        b'{"files": {"a": {"sha256": "x", "bytes": 1}}}', b"[" * 100_000,
        b'{"files": {"a.txt": {"sha256": "' + b"0" * 64 + b'", "bytes": true}}}',
        b'{"files": {"a.txt": {"sha256": "' + b"0" * 64 + b'", "bytes": -1}}}',
        b'{"files": {"../a": {"sha256": "' + b"0" * 64 + b'", "bytes": 1}}}',
        b'{"files": {"manifest.json": {"sha256": "' + b"0" * 64 + b'", "bytes": 1}}}',
    ],
)  # fmt: skip
def test_damaged_manifests_are_integrity_errors(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        verify_folder(folder)
    with pytest.raises(IntegrityError):
        read_manifest(folder)
    assert newest_valid(folder.parent) is None


def test_a_missing_folder_or_manifest_was_never_committed(folder):
    with pytest.raises(IntegrityError, match="not there"):
        verify_folder(folder.with_name("none"))
    (folder / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="never committed"):
        verify_folder(folder)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "C:/a", "a\x00b", "a\nb",
     "a" * 241, "\udc80"],
)  # fmt: skip
def test_names_that_leave_the_folder_are_refused(name):
    assert unsafe_reason(name) is not None


@settings(PATIENT, max_examples=200)
@given(st.text(max_size=60))
def test_an_accepted_name_stays_inside(name):
    if unsafe_reason(name) is None:
        inside = os.path.normpath(os.path.join("/root", name))
        assert inside == f"/root/{name}"


@settings(PATIENT, max_examples=100)
@given(st.binary(max_size=60))
def test_no_bytes_break_the_json_reader(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_bytes(data)
    try:
        expected = json.loads(data.decode("utf-8"))
    except ValueError:
        with pytest.raises(IntegrityError, match="damaged"):
            read_json(path)
    else:
        assert repr(read_json(path)) == repr(expected)


def test_hashing_follows_no_links(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert sha256_file(tmp_path / "a") == expected
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        sha256_file(tmp_path / "b")
