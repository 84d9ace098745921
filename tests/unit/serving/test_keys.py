import hashlib

import pytest

from orchestrator.errors import InputError
from serving.guard.keys import KeyRing, new_key


def key_file(tmp_path, *lines):
    path = tmp_path / "keys.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_only_the_right_key_has_an_owner(tmp_path):
    first, first_line = new_key("alice")
    second, second_line = new_key("bob.2")
    ring = KeyRing.load(key_file(tmp_path, "# keys", "", first_line, second_line))
    assert ring.owner(f"Bearer {first}".encode()).name == "alice"
    assert ring.owner(f"bearer  {second} ".encode()).name == "bob.2"
    for wrong in (
        b"", b"Bearer", b"Bearer ", first.encode(), f"Basic {first}".encode(),
        f"Bearer {first}x".encode(), f"Bearer {first[:-1]}".encode(), b"Bearer \xff\xfe",
        b"Bearer " + b"a" * 1_000_000, f"Bearer {first_line.split(':')[1]}".encode(),
    ):  # fmt: skip
        assert ring.owner(wrong) is None


def test_a_key_may_be_allowed_less(tmp_path):
    secret, line = new_key("alice", "embed,read")
    assert line.endswith(":embed,read")
    ring = KeyRing.load(key_file(tmp_path, line, new_key("bob")[1]))
    assert ring.owner(f"Bearer {secret}".encode()).scopes == {"embed", "read"}
    with pytest.raises(InputError, match="read,embed,predict,generate"):
        new_key("alice", "embed,write")
    with pytest.raises(InputError, match="SCOPES"):
        KeyRing.load(key_file(tmp_path, line.replace("embed", "write")))


def test_the_file_holds_the_digest_not_the_key():
    secret, line = new_key("alice")
    assert secret not in line
    assert line == "alice:" + hashlib.sha256(secret.encode()).hexdigest()
    assert len(secret) >= 43  # 256 bits in base 64


@pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", "a" * 65, "a:b"])
def test_names_that_the_file_could_not_hold_are_refused(name):
    with pytest.raises(InputError):
        new_key(name)


@pytest.mark.parametrize(
    "lines", [[], ["# nothing"], ["plain-secret"], ["a:12"], ["a:" + "0" * 64, "a:" + "1" * 64]]
)
def test_an_unusable_file_is_refused_without_repeating_it(tmp_path, lines):
    path = key_file(tmp_path, *lines)
    with pytest.raises(InputError) as caught:
        KeyRing.load(path)
    assert "plain-secret" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="--new-key"):
        KeyRing.load(tmp_path / "none.txt")
