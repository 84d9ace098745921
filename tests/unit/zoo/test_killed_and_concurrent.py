"""Rows 8 and 31 of the fault table for packages and aliases: killed writers, many writers."""

import itertools
import json
import os
import signal
import sys
import threading
import traceback
import uuid
from contextlib import suppress

import pytest

from orchestrator.errors import InputError, StageError
from orchestrator.storage import is_temporary
from orchestrator.storage.operations import fault_hook
from orchestrator.zoo import Zoo

from .making import fill, light

KILLED = 77
WRITERS = 16


def in_child(action):
    """Start ``action`` in a process of its own, which ends without clean-up."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_everywhere(prepare, action, check, at_least):
    """Kill ``action`` before each of its operations in turn and look at what is left."""
    for stop in itertools.count():
        zoo = prepare(stop)
        operations = iter(range(sys.maxsize))

        def hook(_operation, _path, stop=stop, operations=operations):
            if next(operations) == stop:
                os._exit(KILLED)

        def run(zoo=zoo, hook=hook):
            with fault_hook(hook):
                action(zoo)

        code = code_of(in_child(run))
        assert code in (0, KILLED)
        check(zoo, code == KILLED)
        if code == 0:
            assert stop >= at_least
            return


def commit(zoo):
    with zoo.draft("base", kind="pretrained") as draft:
        fill(draft.path, scale=2.0)
        draft.commit()


def test_a_package_killed_anywhere_is_committed_or_not_there(tmp_path):
    seen = set()

    def prepare(stop):
        zoo = Zoo(tmp_path / str(stop))
        light(zoo)
        zoo.promote("base/v0001")
        return zoo

    def check(zoo, killed):
        newest = zoo.get("base@latest")
        assert newest.version in ("v0001", "v0002")
        assert killed or newest.version == "v0002"
        assert zoo.get("base").version == "v0001"
        assert zoo.aliases("base") == {"champion": "v0001", "latest": newest.version}
        assert all(finding.ok for finding in zoo.verify())
        assert len(zoo.index()) == int(newest.version[1:])
        after = light(zoo).version
        assert int(after[1:]) == int(newest.version[1:]) + 1
        zoo.gc(dry_run=False, keep=9, grace_s=0)
        assert not [n for n in os.listdir(zoo.store.folder / "base") if is_temporary(n)]
        seen.add(newest.version)

    kill_everywhere(prepare, commit, check, at_least=20)
    assert seen == {"v0001", "v0002"}


@pytest.mark.parametrize("move", ["promote", "rollback"])
def test_an_alias_killed_anywhere_is_the_old_one_or_the_new_one(tmp_path, move):
    before, after = {"promote": ("v0002", "v0003"), "rollback": ("v0002", "v0001")}[move]
    seen = set()

    def prepare(stop):
        zoo = Zoo(tmp_path / str(stop))
        for _ in range(3):
            light(zoo)
        zoo.promote("base/v0001")
        zoo.promote("base/v0002")
        return zoo

    def action(zoo):
        zoo.promote("base/v0003") if move == "promote" else zoo.rollback("base")

    def check(zoo, killed):
        version = zoo.get("base").version
        assert version in (before, after)
        assert killed or version == after
        seen.add(version)
        zoo.promote("base/v0003", "other")  # nothing is locked by the dead

    kill_everywhere(prepare, action, check, at_least=5)
    assert seen == {before, after}


def test_a_collection_killed_anywhere_leaves_whole_packages(tmp_path):
    def prepare(stop):
        zoo = Zoo(tmp_path / str(stop))
        for _ in range(3):
            light(zoo)
        return zoo

    def check(zoo, killed):
        assert all(finding.ok for finding in zoo.verify())
        assert zoo.get("base").version == "v0003"
        left = len(zoo.packages())
        assert 1 <= left <= 3
        assert killed or left == 1
        zoo.gc(dry_run=False, keep=1, grace_s=0)
        assert len(zoo.packages()) == 1

    kill_everywhere(prepare, lambda zoo: zoo.gc(dry_run=False, keep=1), check, at_least=10)


def test_sixteen_writers_of_one_name_get_a_version_each(tmp_path):
    zoo = Zoo(tmp_path / "zoo")

    def write(number):
        package = light(zoo, metrics={"writer": number})
        assert zoo.get(package.ref).manifest.metrics == {"writer": number}

    children = [in_child(lambda n=n: write(n)) for n in range(WRITERS)]
    assert [code_of(child) for child in children] == [0] * WRITERS
    packages = zoo.packages()
    assert [package.version for package in packages] == [f"v{n:04d}" for n in range(1, WRITERS + 1)]
    assert sorted(p.manifest.metrics["writer"] for p in packages) == list(range(WRITERS))
    assert all(finding.ok for finding in zoo.verify())
    assert zoo.aliases("base") == {"latest": f"v{WRITERS:04d}"}
    stored = json.loads((tmp_path / "zoo" / "base" / "aliases.json").read_text())
    assert stored["aliases"] == {"latest": f"v{WRITERS:04d}"}
    assert not [n for n in os.listdir(tmp_path / "zoo" / "base") if is_temporary(n)]


def test_sixteen_movers_of_aliases_lose_no_move(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    for _ in range(2):
        light(zoo)

    def move(number):
        zoo.promote("base/v0001", f"own-{number}")
        zoo.promote(f"base/v000{1 + number % 2}", "shared")

    children = [in_child(lambda n=n: move(n)) for n in range(WRITERS)]
    assert [code_of(child) for child in children] == [0] * WRITERS
    aliases = zoo.aliases("base")
    assert {f"own-{n}" for n in range(WRITERS)} <= set(aliases)
    assert aliases["shared"] in ("v0001", "v0002")
    history = json.loads((tmp_path / "zoo" / "base" / "aliases.json").read_text())["history"]
    moves = [move for move in history if move["alias"] == "shared"]
    assert [m["previous"] for m in moves[1:]] == [m["version"] for m in moves[:-1]]


def test_readers_never_see_half_a_package_while_writers_work(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    light(zoo)
    children = [in_child(lambda: [commit(zoo) for _ in range(4)]) for _ in range(3)]
    running = set(children)
    while running:
        assert all(finding.ok for finding in zoo.verify())
        assert zoo.get("base").kind == "pretrained"
        running = {child for child in running if os.waitpid(child, os.WNOHANG)[0] == 0}
    assert len(zoo.packages()) == 13


def test_two_rollbacks_at_once_go_back_once_each_or_say_so(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    for _ in range(3):
        zoo.promote(light(zoo).ref)
    results = []

    def back():
        try:
            results.append(zoo.rollback("base").version)
        except (StageError, InputError) as error:
            results.append(type(error).__name__)

    threads = [threading.Thread(target=back) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert zoo.get("base").version in results
    assert sorted(results) in (["v0001", "v0002"], ["StageError", "v0002"])


class Killed(BaseException):
    """The process is gone."""


def test_an_upload_killed_anywhere_is_no_package(tmp_path):
    for stop in itertools.count():
        zoo = Zoo(f"memory://killed-{uuid.uuid4().hex}")
        light(zoo)
        operations = iter(range(sys.maxsize))

        def hook(_operation, _path, stop=stop, operations=operations):
            if next(operations) >= stop:  # a dead process does not clean up either
                raise Killed

        try:
            with fault_hook(hook):
                commit(zoo)
        except Killed:
            killed = True
        else:
            killed = False
        newest = zoo.get("base")
        assert newest.version == ("v0001" if len(zoo.packages()) == 1 else "v0002")
        assert all(finding.ok for finding in zoo.verify())
        assert len(zoo.index()) == len(zoo.packages())
        if not killed:
            assert newest.version == "v0002"
            assert stop >= 8
            return
        zoo.gc(dry_run=False, grace_s=0)
        known = {package.version for package in zoo.packages()}
        if "v0001" in zoo.store.folders("base"):
            assert set(zoo.store.folders("base")) == known


def test_uploaders_at_once_get_a_version_each(s3_root):
    """On a real server: the file system in memory of fsspec is not safe among threads."""
    zoo = Zoo(f"{s3_root}/many-{uuid.uuid4().hex}")
    failures = []

    def write(number):
        try:
            light(zoo, metrics={"writer": number})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sorted(p.manifest.metrics["writer"] for p in zoo.packages()) == list(range(8))
    assert all(finding.ok for finding in zoo.verify())


def test_a_full_disk_while_writing_a_draft_leaves_nothing(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    light(zoo)

    def fill_the_disk():
        with zoo.draft("base", kind="pretrained") as draft:
            (draft.path / "config.json").write_text("123456")
            raise OSError(28, "No space left on device")

    with pytest.raises(StageError, match="No space left on device: 6 bytes are needed"):
        fill_the_disk()
    assert not [n for n in os.listdir(tmp_path / "zoo" / "base") if is_temporary(n)]


def test_a_full_disk_anywhere_in_a_commit_leaves_the_zoo_as_it_was(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    light(zoo)
    for stop in itertools.count():
        count = iter(range(sys.maxsize))

        def hook(operation, path, stop=stop, count=count):
            if operation in ("create", "write", "fsync") and next(count) == stop:
                raise OSError(28, "No space left on device", path)

        with suppress(StageError), fault_hook(hook):
            commit(zoo)
        if len(zoo.packages()) == 2:
            break
        assert not [n for n in os.listdir(tmp_path / "zoo" / "base") if is_temporary(n)]
        assert [finding.ok for finding in zoo.verify()] == [True]
    assert stop >= 8
