"""Rows 12 and 30 of the fault table: packages made to hurt, and a canary that must stay silent."""

import io
import json
import os
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import sha256_bytes
from orchestrator.zoo import Zoo
from orchestrator.zoo.names import is_name, parse_reference
from orchestrator.zoo.safety import MAX_HEADER_BYTES, require_sane_tensors

from .making import fill, light, make

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PICKLE_NAMES = ["a.pt", "pytorch_model.bin", "a.pkl", "a.pt2", "a.ckpt", "a.PT", "sub/x.joblib"]
OTHER_NAMES = [
    "a.py",
    "a.so",
    "a.sh",
    "noending",
    "a.npz",
    "a.zip",
    "a.html",
    ".hidden",
    "a.json.pt",
]


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code from a package was run"


def plant(package, name, data, *, listed=True):
    """Put a file into a committed package, with a manifest that agrees when it is listed."""
    path = package.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if listed:
        entry = {"sha256": sha256_bytes(data), "bytes": len(data)}
        rewrite(package, lambda manifest: manifest["files"].update({name: entry}))


def rewrite(package, change):
    path = package.path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(zoo, ref="base/v0001"):
    """Every way to a package refuses it; returns the message."""
    with pytest.raises(IntegrityError) as caught:
        zoo.get(ref)
    with pytest.raises(IntegrityError):
        zoo.promote(ref, "candidate")
    (finding,) = [finding for finding in zoo.verify() if not finding.ok]
    assert finding.ref == ref
    zoo.index()
    return str(caught.value)


@pytest.mark.parametrize("name", PICKLE_NAMES + OTHER_NAMES)
def test_files_that_are_not_data_are_refused_even_when_listed(zoo, canary, name):
    plant(make(zoo), name, pickle.dumps(Canary(canary)))
    assert f"{name}: refused" in refused(zoo)


@pytest.mark.parametrize("name", PICKLE_NAMES + OTHER_NAMES)
def test_files_that_are_not_data_are_never_committed(zoo, canary, name):
    with zoo.draft("base", kind="imported") as draft:
        (draft.path / name).parent.mkdir(exist_ok=True)
        (draft.path / name).write_bytes(pickle.dumps(Canary(canary)))
        with pytest.raises(IntegrityError, match="A package holds only"):
            draft.commit()
    assert zoo.packages() == []


def test_a_pickle_under_a_harmless_name_is_only_data(zoo, canary):
    with zoo.draft("base", kind="imported") as draft:
        (draft.path / "history.parquet").write_bytes(pickle.dumps(Canary(canary)))
        (draft.path / "config.json").write_bytes(pickle.dumps(Canary(canary)))
        package = draft.commit()
    for read in (package.history, lambda: package.read_json("config.json")):
        with pytest.raises(IntegrityError):
            read()


def test_a_file_that_is_not_listed(zoo):
    plant(make(zoo), "extra.json", b"{}", listed=False)
    assert "extra.json: not in the manifest" in refused(zoo)


@pytest.mark.parametrize(
    "name",
    ["../escape.json", "/etc/passwd", "a/../../b.json", "a\\..\\b.json", "x\x00.json", "./a.json"],
)
def test_a_manifest_that_names_paths_outside(zoo, name):
    package = make(zoo)
    (package.path.parent / "escape.json").write_text("{}")
    entry = {"sha256": sha256_bytes(b"{}"), "bytes": 2}
    rewrite(package, lambda manifest: manifest["files"].update({name: entry}))
    assert "refused" in refused(zoo)


@pytest.mark.parametrize("target", ["secret", "package file", "folder"])
def test_links_are_refused_at_rest_and_at_commit(zoo, tmp_path, target):
    (tmp_path / "secret").write_text("{}")
    package = make(zoo)
    link = package.path / "link.json"
    where = {"secret": tmp_path / "secret", "package file": "config.json", "folder": tmp_path}[
        target
    ]
    link.symlink_to(where)
    entry = {"sha256": sha256_bytes(b"{}"), "bytes": 2}
    rewrite(package, lambda manifest: manifest["files"].update({"link.json": entry}))
    assert "symbolic link" in refused(zoo)
    with zoo.draft("base", kind="imported") as draft:
        (draft.path / "link.json").symlink_to(where)
        with pytest.raises(IntegrityError, match="symbolic link"):
            draft.commit()


def test_a_link_in_place_of_a_version_or_a_name(zoo, tmp_path):
    package = make(zoo)
    (zoo.store.folder / "base" / "v0002").symlink_to(package.path)
    with pytest.raises(IntegrityError):
        zoo.get("base/v0002")
    outside = Zoo(tmp_path / "outside")
    light(outside, "evil")
    (zoo.store.folder / "base" / "v0003").symlink_to(tmp_path / "outside" / "evil" / "v0001")
    with pytest.raises(IntegrityError):
        zoo.get("base/v0003")
    assert zoo.get("base").version == "v0001"


def test_a_pipe_is_refused_without_waiting_for_it(zoo):
    package = make(zoo)
    (package.path / "config.json").unlink()
    os.mkfifo(package.path / "config.json")
    assert "no regular file" in refused(zoo)


def test_sizes_that_are_lies_are_found_before_anything_is_read(zoo):
    package = make(zoo)
    with (package.path / "config.json").open("wb") as file:
        file.truncate(50 * 2**30)  # sparse: reading it would take minutes
    assert "53687091200 bytes, the manifest says" in refused(zoo)


def test_a_zip_bomb_is_no_kind_of_package_file(zoo):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", b"0" * 10_000_000)
    plant(make(zoo), "weights.zip", buffer.getvalue())
    assert "weights.zip: refused" in refused(zoo)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"schema_version": 1}', '{"schema_version": 99}', "[" * 100_000,
        '{"schema_version": "1"}', "\x00", '{"schema_version": 1, "surprise": true}',
    ],
)  # fmt: skip
def test_manifests_that_are_none(zoo, content):
    package = make(zoo)
    (package.path / "manifest.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        zoo.get("base/v0001")
    assert zoo.index().empty


def test_a_manifest_too_large_to_read(zoo):
    with (make(zoo).path / "manifest.json").open("r+b") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(IntegrityError, match="larger than"):
        zoo.get("base/v0001")


def test_a_lineage_that_bites_its_tail_ends(zoo):
    parent = light(zoo, "parent")
    child = light(zoo, "child", kind="finetuned", parents=[parent])
    me = {"name": "child", "version": "v0001", "manifest_sha256": "0" * 64}
    rewrite(parent, lambda manifest: manifest["parents"].append(me))
    states = {ancestor.ref: ancestor.status for ancestor in zoo.lineage("child")}
    assert states == {"child/v0001": "ok", "parent/v0001": "changed"}
    assert zoo.gc(keep=1).removed == ()
    assert child.ref in zoo.gc(keep=1).kept


# --- safetensors ---------------------------------------------------------------------------------


def tensors(header, body=b"", length=None):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data + body


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
GOOD = save({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "e": np.zeros((0, 3), np.float32)})

BAD_TENSORS = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header length 2^63": tensors(b"{}", length=2**63),
    "header length 2^64-1": tensors(b"{}", length=2**64 - 1),
    "header longer than the file": tensors(b"{}", length=3),
    "header of zero": tensors(b""),
    "no json": tensors(b"{w"),
    "not utf-8": tensors(b'{"\xff": 1}'),
    "a list": tensors([1]),
    "deep nesting": tensors(b"[" * 100_000),
    "an entry that is a number": tensors({"w": 3}),
    "no shape": tensors({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8),
    "unknown type": tensors({"w": {**ENTRY, "dtype": "OBJECT"}}, b"\0" * 8),
    "a type that is a list": tensors({"w": {**ENTRY, "dtype": ["F32"]}}, b"\0" * 8),
    "negative shape": tensors({"w": {**ENTRY, "shape": [-2]}}, b"\0" * 8),
    "shape of truth values": tensors({"w": {**ENTRY, "shape": [True, 2]}}, b"\0" * 8),
    "huge shape": tensors({"w": {**ENTRY, "shape": [2**62, 2**62]}}, b"\0" * 8),
    "offsets past the end": tensors({"w": {**ENTRY, "data_offsets": [0, 16]}}, b"\0" * 8),
    "offsets backwards": tensors({"w": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8),
    "three offsets": tensors({"w": {**ENTRY, "data_offsets": [0, 4, 8]}}, b"\0" * 8),
    "a hole": tensors({"w": {**ENTRY, "data_offsets": [8, 16]}}, b"\0" * 16),
    "an overlap": tensors({"w": ENTRY, "v": ENTRY}, b"\0" * 8),
    "bytes left over": tensors({"w": ENTRY}, b"\0" * 9),
    "one byte short": tensors({"w": ENTRY}, b"\0" * 7),
    "a pickle": pickle.dumps({"w": [0.0] * 100}),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_bad_tensors_are_named_not_loaded(zoo, kind):
    package = make(zoo)
    data = BAD_TENSORS[kind]
    plant(package, "model.safetensors", data)
    assert "model.safetensors: damaged" in refused(zoo)
    with zoo.draft("base", kind="imported") as draft:
        (draft.path / "model.safetensors").write_bytes(data)
        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            draft.commit()


def test_a_million_entries_cost_neither_time_nor_memory(zoo):
    header = b"{" + b",".join(b'"%d":{}' % n for n in range(1_000_000)) + b"}"
    assert len(header) > MAX_HEADER_BYTES
    plant(make(zoo), "model.safetensors", tensors(header))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "at most 4194304 are read" in refused(zoo)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50 * 1024  # KiB


@settings(PATIENT, max_examples=150)
@given(st.integers(0, len(GOOD)))
def test_truncated_tensors_are_an_integrity_error(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("t") / "model.safetensors"
    path.write_bytes(GOOD[:length])
    if length == len(GOOD):
        require_sane_tensors(path)
    else:
        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            require_sane_tensors(path)


@settings(PATIENT, max_examples=150)
@given(st.data())
def test_no_header_is_accepted_that_the_library_refuses(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "model.safetensors"
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(GOOD) - 1))
        mutated[position] = data.draw(st.integers(0, 255))
    path.write_bytes(mutated)
    try:
        require_sane_tensors(path)
    except IntegrityError:
        return
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            file.get_tensor(name)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ref",
    [
        "", ".", "..", "../x", "/etc", "a/b", "a/../v0001", "a@b@c", "a/v0001/x", "a/v0000", "a/v1",
        "a/v00001", "A", "a b", "a\n", "a/v0001\n", "-a", "@champion", "a@", "a@v0001", "a" * 65,
        "%2e%2e", "a\x00", "a\\b", "caf\u00e9", "a/latest", "s3://x", "a/v\u0661\u0661\u0661\u0661",
    ],
)  # fmt: skip
def test_references_that_are_none(zoo, ref):
    light(zoo, "a")
    for use in (zoo.get, zoo.verify, zoo.promote, zoo.lineage, zoo.rollback):
        with pytest.raises(InputError):
            use(ref)
    if ref != "a/latest":
        with pytest.raises(InputError):
            zoo.draft(ref, kind="imported")
    assert os.listdir(zoo.root) == ["a"]


@settings(PATIENT, max_examples=300)
@given(st.one_of(st.text(max_size=70), st.from_regex(r"[a-z./@v0-9-]{1,20}")))
def test_an_accepted_reference_stays_inside_the_zoo(text):
    try:
        reference = parse_reference(text)
    except InputError:
        return
    assert str(reference) == text
    for part in filter(None, (reference.name, reference.version, reference.alias)):
        assert is_name(part)
        assert os.path.normpath(os.path.join("/zoo", part)) == f"/zoo/{part}"


def test_the_corpus_would_pass_if_it_were_harmless(zoo):
    """The oracle can fail: the same planting with a harmless file is accepted."""
    plant(make(zoo), "extra.json", b"{}")
    assert zoo.get("base/v0001").read_json("extra.json") == {}
    with zoo.draft("base", kind="imported") as draft:
        fill(draft.path)
        assert draft.commit().version == "v0002"
