"""A folder written beside its final name: committed when the block ends, removed when it fails."""

import errno
import os

import pytest

from orchestrator.errors import StageError
from orchestrator.storage import staged, verify_folder


def test_the_folder_appears_complete_when_the_block_ends(tmp_path):
    final = tmp_path / "made" / "here"
    manifest = {"kind": "test"}
    with staged(final, manifest) as folder:
        (folder / "a.txt").write_text("a")
        manifest["rows"] = [1]  # known only now
        assert not final.exists()
    assert verify_folder(final)["rows"] == [1]
    assert [path.name for path in final.parent.iterdir()] == ["here"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, error):
    final = tmp_path / "here"
    with staged(final, {"number": 1}) as folder:
        (folder / "a.txt").write_text("a")
    with pytest.raises(type(error)), staged(final, {"number": 2}):
        raise error
    assert verify_folder(final)["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_full_disk_in_the_block_is_explained(tmp_path):
    with pytest.raises(StageError, match="free some space"), staged(tmp_path / "x", {}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())
