"""Row 8 of the fault table: the writer dies between every two operations, nothing is unreadable."""

import errno
import json
import os

from orchestrator.config import JobConfig, JobResult
from orchestrator.errors import IntegrityError
from orchestrator.storage import (
    FolderExistsError,
    RunFolder,
    atomic_write_json,
    commit_folder,
    commit_new_folder,
    is_temporary,
    newest_valid,
    operations,
    read_json,
    sweep_temporary,
    temporary_sibling,
    verify_folder,
)

from .killing import kill_everywhere, run_killed, stage


def leftovers(folder):
    return [path.name for path in folder.iterdir() if is_temporary(path.name)]


def test_a_new_folder_is_there_completely_or_not_at_all(tmp_path):
    def prepare(stop):
        root = tmp_path / str(stop)
        return root, stage(temporary_sibling(root / "step-2"), "new")

    def check(state, killed):
        root, _ = state
        if (root / "step-2").exists():
            assert verify_folder(root / "step-2")["step"] == 2
            assert (root / "step-2" / "a.txt").read_text() == "new"
        else:
            assert killed
            assert newest_valid(root, "step-*") is None
        sweep_temporary(root, grace_s=0)
        assert leftovers(root) == []

    kill_everywhere(
        prepare, lambda s: commit_folder(s[1], s[0] / "step-2", {"step": 2}), check, at_least=9
    )


def test_a_replaced_folder_is_the_old_one_or_the_new_one(tmp_path):
    seen = set()

    def prepare(stop):
        root = tmp_path / str(stop)
        commit_folder(stage(root / "first", "old"), root / "state", {"text": "old"})
        return root, stage(temporary_sibling(root / "state"), "new")

    def check(state, killed):
        root, _ = state
        text = verify_folder(root / "state")["text"]
        assert (root / "state" / "a.txt").read_text() == text
        assert killed or text == "new"
        sweep_temporary(root, grace_s=0)
        assert [path.name for path in root.iterdir()] == ["state"]
        seen.add(text)

    kill_everywhere(
        prepare, lambda s: commit_folder(s[1], s[0] / "state", {"text": "new"}), check, at_least=15
    )
    assert seen == {"old", "new"}


def test_where_names_cannot_be_exchanged_the_sweeper_restores(tmp_path, monkeypatch):
    """On such a file system a killed writer may leave the old folder set aside: never damaged."""
    monkeypatch.setattr(operations, "exchange", lambda *_: False)
    aside = []

    def prepare(stop):
        root = tmp_path / str(stop)
        commit_folder(stage(root / "first", "old"), root / "state", {"text": "old"})
        return root, stage(temporary_sibling(root / "state"), "new")

    def check(state, _killed):
        root, _ = state
        if not (root / "state").exists():
            aside.append(root)
        sweep_temporary(root, grace_s=0)
        assert verify_folder(root / "state")["text"] in ("old", "new")
        assert [path.name for path in root.iterdir()] == ["state"]

    kill_everywhere(
        prepare, lambda s: commit_folder(s[1], s[0] / "state", {"text": "new"}), check, at_least=15
    )
    assert len(aside) == 1


def test_a_commit_from_another_file_system(tmp_path, monkeypatch):
    rename = operations.replace

    def other_device(source, target):
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(target))
        rename(source, target)

    monkeypatch.setattr(operations, "replace", other_device)

    def prepare(stop):
        return tmp_path / str(stop), stage(tmp_path / f"scratch-{stop}", "new")

    def check(state, killed):
        root, staged = state
        if root.exists() and (root / "step-2").exists():
            assert verify_folder(root / "step-2")["step"] == 2
            assert killed or not staged.exists()
        else:
            assert killed
            assert (staged / "a.txt").read_text() == "new"
        sweep_temporary(root, grace_s=0)
        assert not root.exists() or leftovers(root) == []

    kill_everywhere(
        prepare, lambda s: commit_folder(s[1], s[0] / "step-2", {"step": 2}), check, at_least=15
    )


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    seen = set()

    def prepare(stop):
        path = tmp_path / str(stop) / "state.json"
        atomic_write_json(path, {"text": "old"})
        return path

    def check(path, killed):
        text = read_json(path)["text"]
        assert killed or text == "new" * 1000
        sweep_temporary(path.parent, grace_s=0)
        assert os.listdir(path.parent) == ["state.json"]
        seen.add(text)

    kill_everywhere(
        prepare, lambda path: atomic_write_json(path, {"text": "new" * 1000}), check, at_least=5
    )
    assert seen == {"old", "new" * 1000}


def config_of(root):
    return JobConfig(run={"name": "r", "dir": str(root)})


def work(root, log):
    """Do two steps and finish, each only when the journal does not have it."""
    with RunFolder.open(config_of(root), "pretrain") as run:
        if run.finished() is not None:
            return
        for step in ("corpus", "train/1"):
            if run.done(step) is None:
                with log.open("a") as file:
                    file.write(f"{step}\n")
                run.mark(step, {"rows": len(step)})
        run.finish(JobResult(package="a/v0001"))


def test_a_run_is_readable_and_goes_on_wherever_it_was_killed(tmp_path):
    def check(root, _killed):
        run = RunFolder.open(config_of(root), "pretrain")
        assert run.done("corpus") in (None, {"rows": 6})
        assert run.done("train/1") in (None, {"rows": 7})
        assert run.finished() in (None, JobResult(package="a/v0001"))
        run.close()
        recorded = [step for step in ("corpus", "train/1") if run.done(step)]
        before = (root / "log").read_text().split() if (root / "log").exists() else []
        work(root, root / "log")
        after = (root / "log").read_text().split()
        assert not set(recorded) & set(after[len(before) :])  # nothing finished ran again
        assert RunFolder.open(config_of(root), "pretrain").finished() is not None

    def prepare(stop):
        root = tmp_path / str(stop)
        root.mkdir()
        return root

    kill_everywhere(prepare, lambda root: work(root, root / "log"), check, at_least=25)


def test_many_writers_of_one_name_have_one_winner(tmp_path):
    children = []
    for number in range(16):
        child = os.fork()
        if child == 0:
            staged = stage(tmp_path / f"staged-{number}", str(number))
            try:
                commit_new_folder(staged, tmp_path / "v1", {"writer": number})
            except FolderExistsError:
                os._exit(3)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [3] * 15
    assert verify_folder(tmp_path / "v1")["writer"] == codes.index(0)
    losers = [tmp_path / f"staged-{n}" for n, code in enumerate(codes) if code == 3]
    assert all((loser / "a.txt").exists() for loser in losers)


def test_many_writers_of_one_file_never_mix(tmp_path):
    path = tmp_path / "state.json"
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            for _ in range(20):
                atomic_write_json(path, {"writer": number, "text": str(number) * 5000})
            os._exit(0)
        children.append(child)
    for child in children:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if path.exists():
                content = json.loads(path.read_bytes())
                assert set(content["text"]) == {str(content["writer"])}
    assert os.listdir(tmp_path) == ["state.json"]


def test_the_harness_notices_a_writer_that_writes_in_place(tmp_path):
    """The oracle can fail: the same test finds a torn file when the protocol is not followed."""
    path = tmp_path / "state.json"
    torn = False

    def careless():
        path.unlink(missing_ok=True)
        operations.write_file(path, b'{"text": "new"}')

    for stop in range(4):
        atomic_write_json(path, {"text": "old"})
        run_killed(careless, stop)
        try:
            read_json(path)
        except (IntegrityError, FileNotFoundError):
            torn = True
    assert torn


def test_the_newest_valid_is_found_by_number(tmp_path):
    for step in ("step-2", "step-10", "step-9"):
        commit_folder(stage(tmp_path / "s", step), tmp_path / step, {"step": step})
    assert newest_valid(tmp_path, "step-*") == tmp_path / "step-10"
    (tmp_path / "step-10" / "a.txt").write_text("x")
    assert newest_valid(tmp_path, "step-*") == tmp_path / "step-9"
    (tmp_path / "step-9" / "manifest.json").unlink()
    assert newest_valid(tmp_path, "step-*") == tmp_path / "step-2"
