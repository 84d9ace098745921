import os
import signal
import time

import pytest
from pydantic import Field

from orchestrator.config import JobConfig, JobResult, StrictModel
from orchestrator.errors import ConfigError, InputError, StageError
from orchestrator.storage import FileLock, LockedError, RunFolder, locked
from orchestrator.storage import locks as lock_module


class SomeConfig(JobConfig):
    steps: int = 10
    names: list[str] = Field(default=["a"])
    note: str | None = None


def config(root, **changes):
    return SomeConfig(**{"run": {"name": "r", "dir": str(root)}, **changes})


def test_a_run_remembers_its_steps_and_its_result(tmp_path):
    with RunFolder.open(config(tmp_path), "pretrain") as run:
        assert run.path == tmp_path / "r"
        assert run.done("train") is None
        assert run.finished() is None
        run.mark("train", {"step": 3, "path": tmp_path, "nan": float("nan")})
        run.mark("a/b:c.d", {})
        run.mark("x" * 500, {"long": True})
        run.finish(JobResult(package="m/v0001", metrics={"loss": 1.5}, run_dir=str(run.path)))
    with RunFolder.open(config(tmp_path), "pretrain") as run:
        assert run.done("train") == {"step": 3, "path": str(tmp_path), "nan": None}
        assert run.done("a/b:c.d") == {}
        assert run.done("x" * 500) == {"long": True}
        assert run.done("x" * 499) is None
        assert run.finished().package == "m/v0001"


@pytest.mark.parametrize("step", ["", ".", "..", "../../x", "a\x00b", "\u00e4", "a b", "%2F"])
def test_any_text_is_a_step_name_and_stays_in_the_journal(tmp_path, step):
    with RunFolder.open(config(tmp_path), "s") as run:
        run.mark(step, {"step": step})
        assert run.done(step) == {"step": step}
        assert len(list((run.path / "journal").iterdir())) == 2  # the step and the run's id
    assert os.listdir(tmp_path) == ["r"]


def test_a_run_keeps_its_id_and_no_two_runs_share_one(tmp_path):
    with RunFolder.open(config(tmp_path), "s") as run:
        first = run.id
    with RunFolder.open(config(tmp_path), "s") as run:
        assert run.id == first
    with RunFolder.open(config(tmp_path / "elsewhere"), "s") as run:
        assert run.id != first


@pytest.mark.parametrize(
    ("step", "payload"),
    [("identity", {"id": "made-before"}), ("package", {"ref": "m/v0001", "run_id": "made-before"})],
)
def test_the_id_of_an_older_run_folder_is_kept(tmp_path, step, payload):
    with RunFolder.open(config(tmp_path), "s") as run:
        (run.path / "journal" / "identity.json").unlink()
        run.mark(step, payload)
    with RunFolder.open(config(tmp_path), "s") as run:
        assert run.id == "made-before"


def test_damaged_state_counts_as_not_there(tmp_path):
    with RunFolder.open(config(tmp_path), "s") as run:
        run.mark("train", {"step": 3})
        run.finish(JobResult())
        mark = run.path / "journal" / "train.json"
        mark.write_text(mark.read_text().replace("3", "4"))
        assert run.done("train") is None
        result = run.path / "result.json"
        for text in ("", "{", "[]", '{"status": "done"}', '{"status": "done", "sha256": 3}'):
            result.write_text(text)
            assert run.finished() is None


def test_only_a_done_result_is_finished(tmp_path):
    with RunFolder.open(config(tmp_path), "s") as run:
        run.finish(JobResult(status="failed"))
        assert run.finished() is None


def test_another_config_is_refused_and_the_differences_are_listed(tmp_path):
    RunFolder.open(config(tmp_path), "s").close()
    with pytest.raises(ConfigError) as caught:
        RunFolder.open(config(tmp_path, steps=20, names=["a", "b"], seed=8), "s")
    text = str(caught.value)
    assert {p.path for p in caught.value.problems} == {"steps", "names.1", "seed"}
    assert "steps: is 20 now, but the run has 10." in text
    assert "names.1: is 'b' now, but the run has not set." in text
    assert "Choose another run.name" in text
    assert "delete" not in text
    with RunFolder.open(config(tmp_path), "s"):  # the refused attempt changed nothing
        pass


def test_where_a_run_happens_may_differ(tmp_path):
    RunFolder.open(config(tmp_path), "s").close()
    moved = config(
        tmp_path,
        run={"name": "r", "dir": f"{tmp_path}/", "zoo": "other"},
        cluster={"workers": 4, "address": "auto"},
    )
    with RunFolder.open(moved, "s") as run:
        assert "zoo: other" in (run.path / "job.yaml").read_text()


class Pin(StrictModel):
    value: str


def refuse(config, error=InputError, *, work=False, name=None):
    with RunFolder.open(config, "finetune") as run:
        _work(run, work=work, name=name)
        raise error(run.id)


def _work(run, *, work, name):
    run.once("rows", Pin, lambda: Pin(value="seen"))
    (run.path / "matrix.parquet").write_text("a copy", encoding="utf-8")
    run.pin("inputs", {"matrix": "m"}, files=["matrix.parquet"])
    if work:
        run.once("search", Pin, lambda: Pin(value="took hours"), work=True)
    if name is not None:
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("of a unit", encoding="utf-8")


def test_a_run_that_is_refused_for_its_input_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError) as caught:
        refuse(config(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with RunFolder.open(config(tmp_path, steps=20), "select") as again:  # nothing is locked
        assert again.once("rows", Pin, lambda: Pin(value="repaired")).value == "repaired"
        assert again.id != str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"work": True}, InputError),
        ({"name": "units/0001/weights"}, InputError),
        ({"name": "journal.jsonl"}, InputError),
        ({}, StageError),
    ],
)
def test_a_run_that_finished_something_stays_whatever_ends_it(tmp_path, options, error):
    with pytest.raises(error) as caught:
        refuse(config(tmp_path), error, **options)
    with RunFolder.open(config(tmp_path), "finetune") as again:
        assert again.id == str(caught.value)
        assert again.once("rows", Pin, lambda: Pin(value="changed")).value == "seen"
    with pytest.raises(ConfigError):
        RunFolder.open(config(tmp_path, steps=20), "finetune")


def test_a_finished_run_stays_when_it_is_refused(tmp_path):
    with RunFolder.open(config(tmp_path), "s") as run:
        run.finish(JobResult(run_dir=str(run.path)))
    with pytest.raises(InputError), RunFolder.open(config(tmp_path), "s"):
        raise InputError("the package is gone")
    with RunFolder.open(config(tmp_path), "s") as run:
        assert run.finished() is not None


def test_a_lock_file_that_its_holder_removed_is_not_taken(tmp_path, monkeypatch):
    path = tmp_path / "r" / ".lock"
    holder = FileLock(path)
    holder.acquire()

    def holder_leaves(descriptor, blocking):
        path.unlink()
        holder.release()
        return True

    monkeypatch.setattr(lock_module, "lock_descriptor", holder_leaves)
    with pytest.raises(LockedError):
        FileLock(path).acquire()


def test_a_setting_that_is_new_with_its_default_is_no_difference(tmp_path):
    with RunFolder.open(config(tmp_path), "s") as run:
        job = run.path / "job.yaml"
    job.write_text("".join(x for x in job.read_text().splitlines(True) if "note" not in x))
    RunFolder.open(config(tmp_path), "s").close()
    job.write_text(job.read_text().replace("note: null", "note: null\nremoved: 3"))
    with pytest.raises(ConfigError, match="removed: is not set now, but the run has 3"):
        RunFolder.open(config(tmp_path), "s")


def test_another_stage_is_refused(tmp_path):
    RunFolder.open(config(tmp_path), "pretrain").close()
    with pytest.raises(ConfigError, match="belongs to a run of the stage 'pretrain'"):
        RunFolder.open(config(tmp_path), "select")


def test_a_second_writer_is_refused_and_told_who_holds_the_run(tmp_path):
    with (
        RunFolder.open(config(tmp_path), "s"),
        pytest.raises(InputError, match=f"held by process {os.getpid()} on"),
    ):
        RunFolder.open(config(tmp_path), "s")
    RunFolder.open(config(tmp_path), "s").close()


def test_the_run_of_a_killed_process_is_taken_over(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        run = RunFolder.open(config(tmp_path), "s")
        run.mark("train", {})
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    assert os.read(reader, 1) == b"x"
    with pytest.raises(InputError, match=f"process {child}"):
        RunFolder.open(config(tmp_path), "s")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with RunFolder.open(config(tmp_path), "s") as run:
        assert run.done("train") == {}


def test_what_a_killed_export_left_is_removed_as_soon_as_the_run_goes_on(tmp_path):
    with RunFolder.open(config(tmp_path), "pretrain") as run:
        rest, kept = run.path / "export.tmp-0123", run.path / "export"
        for folder in (rest, kept):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"x")
        with pytest.raises(InputError, match="in use"):
            RunFolder.open(config(tmp_path), "pretrain")
        assert rest.is_dir()  # while its writer may live
    with RunFolder.open(config(tmp_path), "pretrain"):
        assert kept.is_dir()
        assert not rest.exists()


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be written"):
        RunFolder.open(config(tmp_path / "file"), "s")


def test_a_file_uri_is_a_local_folder(tmp_path):
    with RunFolder.open(config(f"file://{tmp_path}"), "s") as run:
        assert run.path == tmp_path / "r"


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        ("", True),
        ("not json", True),
        ('{"pid": 999999999, "host": "HERE"}', True),
        ('{"pid": 1, "host": "HERE"}', False),
        ('{"pid": 1, "host": "elsewhere"}', False),
    ],
)
def test_without_kernel_locks_the_process_id_decides(tmp_path, monkeypatch, holder, free):
    def unsupported(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock_module, "lock_descriptor", unsupported)
    path = tmp_path / "lock"
    path.write_text(holder.replace("HERE", lock_module.socket.gethostname()))
    lock = FileLock(path)
    if free:
        lock.acquire()
        lock.release()
    else:
        with pytest.raises(LockedError, match="held by process 1"):
            lock.acquire()


def test_waiting_for_a_lock_ends_at_the_deadline(tmp_path):
    with (
        locked(tmp_path / "lock"),
        pytest.raises(LockedError),
        locked(tmp_path / "lock", deadline_s=0.05),
    ):
        pass
    with locked(tmp_path / "lock", deadline_s=0):
        pass
