"""A pre-training run whose folder is on an S3 server, continued on other machines."""

import shutil
import uuid

import pytest

from orchestrator.data.in_memory import with_stored_tables
from orchestrator.errors import ConfigError, InputError
from orchestrator.pretraining import runner
from orchestrator.pretraining.worker import pretrain, pretrain_all
from orchestrator.storage import RunFolder
from orchestrator.storage.remote.remote_store import RemoteStore
from orchestrator.zoo import Zoo
from tests.support.s3 import settings

CURVE = ("train.max_steps=8", "train.early_stopping={metric: loss, patience: 50}")


@pytest.fixture
def root(s3_port):
    with settings(s3_port) as bucket:
        yield f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Go to a machine whose staging folder is empty, or was used before."""

    def go(name, *, empty=True):
        place = tmp_path / "machines" / name
        if empty:
            shutil.rmtree(place, ignore_errors=True)
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(place))
        return place

    return go


def losses(package):
    history = package.history()
    found = history[(history.split == "train") & (history.metric == "loss")]
    assert found.step.tolist() == list(range(1, len(found) + 1))
    return found.value.tolist()


def part(config, alone, machine):
    """Run one part of a job: the driver on one machine, the worker on another one."""
    machine("driver")
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        work.recover()
        job = work.prepare()
        assert str(run.path) not in job.model_dump_json()
        machine("worker")
        outcome = pretrain(alone.within(job.run_dir).claimed(job.lease), job)
        machine("driver", empty=False)
        if not outcome.stopped:
            work.commit(outcome)
    return outcome


@pytest.fixture
def quiet(make_config, alone, tmp_path):
    """Losses of the same run in a folder of this machine."""
    config = make_config("run.name=quiet", "package.name=quiet", *CURVE)
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        work.commit(pretrain(alone.within(run.path), work.prepare()))
    alone.events.clear()
    return losses(Zoo(tmp_path / "zoo").get("quiet"))


@pytest.mark.slow
def test_a_run_goes_on_on_other_machines_and_leaves_what_a_finished_run_keeps(
    root, make_config, alone, machine, tmp_path, quiet
):
    config = make_config(f"run.dir={root}/runs", *CURVE)
    alone.stop_after.append(3)
    assert part(config, alone, machine).stopped
    store = RemoteStore(f"{root}/runs/tiny")
    assert [n.split("-")[1] for n in store.folders("checkpoints")] == ["00000002", "00000004"]
    assert "best" in store.folders()
    alone.stop_after[:] = [6]
    alone.events.clear()
    assert part(config, alone, machine).stopped
    alone.stop_after.clear()
    alone.events.clear()
    assert part(config, alone, machine).step <= 8
    assert losses(Zoo(tmp_path / "zoo").get("tiny-model")) == quiet  # bit for bit
    left = set(store.sizes(""))
    assert {"job.yaml", "stage.json", "result.json"} <= left
    assert not any(name.startswith(("export/", "best/")) for name in left)
    machine("another")
    with RunFolder.open(config, runner.STAGE) as run:
        assert run.finished().run_dir == f"{root}/runs/tiny"
        assert run.finished().package == "tiny-model/v0001"


@pytest.mark.slow
def test_an_export_is_made_once_and_committed_by_another_driver(
    root, make_config, alone, machine, tmp_path
):
    config = make_config(f"run.dir={root}/runs")
    machine("driver")
    with RunFolder.open(config, runner.STAGE) as run:
        job = runner._Work(config, run).prepare()
        pretrain_all(alone, runner.PretrainPayload(jobs=(job,)))  # and the driver is killed
    alone.events.clear()
    part(config, alone, machine)
    assert not [e for e in alone.events if getattr(e, "split", "") == "train"]
    assert Zoo(tmp_path / "zoo").get("tiny-model").history().step.max() == 6


@pytest.mark.slow
def test_a_branch_starts_from_a_checkpoint_on_a_store(root, make_config, alone, machine):
    trunk = make_config(f"run.dir={root}/runs", "run.name=trunk", "train.keep_every_steps=2")
    part(trunk, alone, machine)
    for name, start in (("a", "{run: trunk, step: 4}"), ("b", f"{{path: '{root}/runs/trunk'}}")):
        branch = make_config(
            *(f"run.dir={root}/runs", f"run.name={name}", f"train.start_from={start}"),
            *("train.max_steps=8", f"package.name={name}"),
        )
        machine("driver")
        assert "step" in runner.check(branch)
        alone.events.clear()
        part(branch, alone, machine)
        (began,) = [e.step for e in alone.events if type(e).__name__ == "RunStarted"]
        assert began == (4 if name == "a" else 6)
    missing = make_config(f"run.dir={root}/runs", "train.start_from={run: nobody}")
    with pytest.raises(InputError, match=r"runs/nobody has no checkpoints"):
        runner.check(missing)


def test_what_cannot_be_on_a_store_is_refused_before_work_starts(make_config, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"tracking\.mlflow: needs a tracking_uri"):
        make_config("run.dir=s3://bucket/runs", "tracking.mlflow={}")
    with pytest.raises(ConfigError, match="seen by one process only"):
        make_config("run.dir=memory://runs")
    make_config("run.dir=s3://bucket/runs", "tracking.mlflow={tracking_uri: 'http://x'}")


def test_a_table_in_memory_cannot_be_written_there():
    with pytest.raises(InputError, match="on an object store"):
        with_stored_tables({"run": {"dir": "s3://b/runs"}, "data": {"source": [{"text": "a"}]}})


@pytest.mark.slow
def test_a_package_of_a_zoo_on_a_store_is_fetched_by_the_worker(
    root, make_config, alone, machine, tmp_path
):
    first = make_config(f"run.dir={root}/runs", f"run.zoo={root}/zoo")
    part(first, alone, machine)
    shutil.copytree(Zoo(f"{root}/zoo").get("tiny-model").path, tmp_path / "tokenizer")
    later = make_config(
        *(f"run.dir={root}/runs", f"run.zoo={root}/zoo", "run.name=later"),
        *("package.name=later", "train.start_from={package: tiny-model}"),
        f"data.tokenizer={{path: {tmp_path}/tokenizer}}",
    )
    part(later, alone, machine)
    (parent,) = Zoo(f"{root}/zoo").get("later").manifest.parents
    assert (parent.name, parent.version) == ("tiny-model", "v0001")
