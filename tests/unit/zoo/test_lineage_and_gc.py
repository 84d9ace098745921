import os

import pytest

from orchestrator.errors import InputError
from orchestrator.storage import temporary_sibling
from orchestrator.zoo.draft import Draft

from .making import light


@pytest.fixture
def family(any_zoo):
    """grand → parent → child, and another parent of the child."""
    light(any_zoo, "grand")
    light(any_zoo, "parent", parents=["grand"])
    light(any_zoo, "other")
    light(any_zoo, "child", kind="finetuned", parents=["parent", "other/v0001"])
    return any_zoo


def states(zoo, ref="child"):
    return {a.ref.partition("/")[0]: (a.depth, a.status, a.child) for a in zoo.lineage(ref)}


def test_lineage_lists_every_ancestor_once_nearest_first(family):
    assert states(family) == {
        "child": (0, "ok", ""),
        "parent": (1, "ok", "child/v0001"),
        "other": (1, "ok", "child/v0001"),
        "grand": (2, "ok", "parent/v0001"),
    }
    assert states(family, "grand") == {"grand": (0, "ok", "")}


def test_a_missing_parent_is_reported(family):
    family.store.drop("parent/v0001")
    assert states(family)["parent"] == (1, "missing", "child/v0001")
    assert "grand" not in states(family)


def test_a_damaged_or_changed_parent_is_reported(family):
    family.store.write("parent/v0001/config.json", b"[]")
    assert states(family)["parent"][1] == "damaged"
    family.store.write("parent/v0001/config.json", b"{}")
    manifest = family.store.read("parent/v0001/manifest.json", 10**6)
    family.store.write("parent/v0001/manifest.json", manifest + b"\n")
    assert states(family)["parent"][1] == "changed"
    assert states(family)["grand"][1] == "ok"
    family.store.write("child/v0001/config.json", b"[]")
    assert states(family)["child"][1] == "damaged"


def test_a_parent_may_be_given_as_a_package(any_zoo):
    parent = light(any_zoo, "parent")
    child = light(any_zoo, "child", parents=[parent])
    assert child.manifest.parents[0].manifest_sha256 == parent.manifest_sha256


def test_gc_says_what_it_would_do_and_does_nothing(any_zoo):
    for _ in range(5):
        light(any_zoo)
    plan = any_zoo.gc(keep=2)
    assert plan.dry_run
    assert plan.removed == ("base/v0001", "base/v0002", "base/v0003")
    assert plan.freed_bytes == sum(p.manifest.total_bytes for p in any_zoo.packages()[:3])
    assert len(any_zoo.packages()) == 5


def test_gc_keeps_what_is_needed(any_zoo):
    for _ in range(6):
        light(any_zoo)
    any_zoo.promote("base/v0002")
    any_zoo.promote("base/v0003")
    any_zoo.promote("base/v0001", "candidate")
    light(any_zoo, "child", kind="finetuned", parents=["base/v0004"])
    done = any_zoo.gc(dry_run=False, keep=1)
    assert done.removed == ("base/v0005",)
    assert done.kept == {
        "base/v0001": "alias candidate",
        "base/v0002": "rollback target of champion",
        "base/v0003": "alias champion",
        "base/v0004": "parent of child/v0001",
        "base/v0006": "one of the newest 1",
        "child/v0001": "one of the newest 1",
    }
    assert any_zoo.rollback("base").version == "v0002"
    assert all(finding.ok for finding in any_zoo.verify())
    assert light(any_zoo).version == "v0007"


def test_gc_keeps_parents_of_parents(any_zoo):
    for _ in range(3):
        light(any_zoo, "a")
    light(any_zoo, "b", parents=["a/v0001"])
    for _ in range(2):
        light(any_zoo, "b")
    light(any_zoo, "c", parents=["b/v0001"])
    assert any_zoo.gc(keep=1).removed == ("a/v0002", "b/v0002")


def test_gc_sweeps_old_drafts_only(zoo):
    light(zoo)
    abandoned = temporary_sibling(zoo.store.folder / "base" / "draft")
    abandoned.mkdir()
    assert zoo.gc(dry_run=False).swept == ()
    with zoo.draft("base", kind="pretrained") as draft:
        assert isinstance(draft, Draft)
        os.utime(abandoned, (1, 1))
        assert zoo.gc(dry_run=False).swept == (str(abandoned),)
        assert draft.path.exists()


def test_gc_refuses_to_keep_nothing(zoo):
    with pytest.raises(InputError, match="keep is 0"):
        zoo.gc(keep=0)


def test_a_version_that_is_promoted_after_the_plan_stays(zoo, monkeypatch):
    for _ in range(3):
        light(zoo)
    original = zoo.store.drop

    def promote_then_drop(path):
        if path == "base/v0001":
            (zoo.store.folder / "base" / ".aliases.lock").unlink()  # let this thread in
            zoo.promote("base/v0002")
        original(path)

    monkeypatch.setattr(zoo.store, "drop", promote_then_drop)
    assert zoo.gc(dry_run=False, keep=1).removed == ("base/v0001",)
    assert zoo.get("base").version == "v0002"
